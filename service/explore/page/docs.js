// The routes of openapi.json, each with a form that sends a request.

import { byId, make, say } from "./dom.js";

const LONG = 3; // lines of a short body

async function start() {
  const answer = await fetch("/openapi.json");
  const { paths, components } = await answer.json();
  const routes = Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => route(path, method, operation, components)));
  byId("routes").replaceChildren(...routes);
}

function route(path, method, operation, components) {
  const fields = (operation.parameters || []).map((parameter, at) =>
    field(parameter, `${operation.operationId}-${at}`));
  const example = exampleOf(operation, components);
  const id = `${operation.operationId}-body`;
  const body = example === undefined ? null : make("textarea",
    { id, class: "body", spellcheck: "false", rows: Math.max(example.split("\n").length, LONG) }, example);
  const shown = make("pre", { role: "status", hidden: true });
  const form = make("form", { onsubmit: (event) => {
    event.preventDefault();
    send(path, method, fields, body, shown);
  } }, ...fields.map((each) => each.row),
  ...(body ? [make("label", { for: id }, "body"), body] : []),
  make("p", {}, make("button", { class: "primary" }, "Send")), shown);
  return make("details", { class: "route" },
    make("summary", {}, make("span", { class: "method" }, method.toUpperCase()),
      make("code", {}, path), make("span", {}, operation.summary)),
    operation.description ? make("p", { class: "quiet" }, ...marked(operation.description)) : null,
    form, answers(operation.responses));
}

function field(parameter, id) {
  const { name, schema, required } = parameter;
  const first = parameter.example ?? (schema.examples || [])[0];
  const placeholder = String(schema.default ?? first ?? "");
  const input = make("input", { id, required, autocomplete: "off", placeholder });
  const about = [parameter.description, limits(schema)].filter(Boolean).join(" ");
  const row = make("div", { class: "field" }, make("label", { for: id }, name, required ? " *" : ""), input,
    about ? make("p", { class: "quiet" }, ...marked(about)) : null);
  return { name, place: parameter.in, input, row };
}

/** Return a text with elements in place of `backticks`. */
const marked = (text) => text.split("`").map((part, at) => at % 2 ? make("code", {}, part) : part);

function limits(schema) {
  const texts = [];
  if (schema.enum) texts.push(`One of ${schema.enum.join(", ")}.`);
  if (schema.minimum !== undefined) texts.push(`From ${schema.minimum} to ${schema.maximum}.`);
  if (schema.default !== undefined && String(schema.default)) texts.push(`Default: ${schema.default}.`);
  return texts.join(" ");
}

/** Return the text of an example body; undefined for a route without a body. */
function exampleOf(operation, components) {
  if (!operation.requestBody) return undefined;
  const { schema } = operation.requestBody.content["application/json"];
  const kinds = [schema, ...(schema.anyOf || [])].map((each) =>
    each.$ref ? components.schemas[each.$ref.split("/").pop()] : each);
  const found = kinds.find((each) => each.examples);
  return JSON.stringify(found ? found.examples[0] : {}, null, 2);
}

function answers(responses) {
  const rows = Object.entries(responses).map(([status, response]) => {
    const media = Object.values(response.content || {})[0];
    const example = media && media.example;
    return make("details", {}, make("summary", {}, make("code", {}, status), ` ${response.description}`),
      example ? make("pre", {}, JSON.stringify(example, null, 2)) : null);
  });
  return make("div", { class: "answers" }, make("h2", {}, "Answers"), ...rows);
}

async function send(path, method, fields, body, shown) {
  let url = path;
  const query = new URLSearchParams(), headers = {};
  for (const { name, place, input } of fields) {
    if (place === "path") url = url.replace(`{${name}}`, encodeURIComponent(input.value));
    else if (input.value && place === "query") query.append(name, input.value);
    else if (input.value && place === "header") headers[name] = input.value;
  }
  if (byId("key").value) headers["X-Api-Key"] = byId("key").value;
  if (body) headers["Content-Type"] = "application/json";
  if (query.size) url += `?${query}`;
  shown.hidden = false;
  try {
    const answer = await fetch(url, { method: method.toUpperCase(), headers, body: body ? body.value : undefined });
    const text = await answer.text();
    const isJson = (answer.headers.get("content-type") || "").includes("json");
    shown.textContent = `${answer.status} ${answer.statusText}\n\n${isJson ? JSON.stringify(JSON.parse(text), null, 2) : text}`;
  } catch {
    shown.textContent = "the service does not answer";
  }
}

document.querySelector(".top form").addEventListener("submit", (event) => event.preventDefault());
start().catch(() => say("trouble", "openapi.json cannot be read"));
