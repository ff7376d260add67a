// Requests to the page's own routes. The API key stays in this tab.

const KEY = "think-ahead-key";

export class Refused extends Error {
  constructor(status, detail) {
    super(detail);
    this.status = status;
  }
}

export const useKey = (key) => sessionStorage.setItem(KEY, key);

export const get = (name, parameters = {}) =>
  send(`/explore/api/${name}?${new URLSearchParams(parameters)}`, {});

export const post = (name, body) =>
  send(`/explore/api/${name}`, {
    method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" },
  });

async function send(url, options) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { "X-Api-Key": key } : {}) };
  let answer;
  try {
    answer = await fetch(url, { ...options, headers });
  } catch {
    throw new Refused(0, "the service does not answer");
  }
  const body = await answer.json();
  if (answer.ok) return body;
  const errors = (body.errors || []).map((each) => `${each.where}: ${each.what}`);
  throw new Refused(answer.status, [body.detail, ...errors].join("; "));
}
