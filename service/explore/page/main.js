// The page: what is shown, and what a person does with it.

import { announce, byId, make, nameOf, plural, say } from "./dom.js";
import { get, post, useKey } from "./api.js";
import { setUpSearch } from "./search.js";
import { showHistory } from "./history.js";
import { prefixesOf, showNight } from "./night.js";
import { agreement, describe, ranksOf, showList } from "./ranking.js";
import { openItem } from "./item.js";
import { showStatus } from "./status.js";

const WORKER = ".venv/bin/thinkahead worker --release RELEASE";
const THINKS_MS = 120000, STARTS_MS = 600000, LOOK_MS = 1000, STATUS_MS = 15000;
const NOT_STORED = {
  too_old: "the history is full of newer ones", waiting: "the store is away, and the event waits in this process",
};
let shown = null; // the user on the page
let other = null; // the list beside it

function report(error) {
  byId("key").hidden = error.status !== 401 && error.status !== 403;
  say("trouble", error.message);
}

/** Return a function that reports the error of another one. */
const safely = (work) => async (...given) => {
  try {
    say("trouble", "");
    return await work(...given);
  } catch (error) {
    return report(error);
  }
};

const open = safely(openItem);

async function showWelcome() {
  shown = null;
  const found = await get("find");
  byId("some-users").replaceChildren(...found.users.map(
    (id) => make("li", {}, make("a", { href: `#${new URLSearchParams({ user: id })}` }, id))));
  byId("some-items").replaceChildren(...found.items.map((item) => make("li", {},
    make("button", { class: "title", onclick: () => open(item.item_id) }, nameOf(item)))));
  byId("welcome").hidden = false;
  byId("user").hidden = true;
}

async function showUser(userId) {
  const [page, sides] = await Promise.all([get("user", { user_id: userId }), get("sides", { user_id: userId })]);
  shown = null;
  other = null;
  byId("wish-status").textContent = "";
  offerSides(sides);
  render(page);
  byId("welcome").hidden = true;
  byId("user").hidden = false;
  document.title = `${userId} · Think-Ahead`;
  byId("main").focus({ preventScroll: true });
}

/** Show a user; lists and prefixes that were there before tell what moved. */
function render(page) {
  const before = shown;
  shown = page;
  byId("user-id").textContent = page.user_id;
  say("user-facts", [page.ranked.release, ...page.arms, ...page.troubles].join(" · "));
  showHistory(page, open);
  showNight(page.night, before && before.night);
  return renderLists(before && before.ranked);
}

function renderLists(before) {
  byId("own-head").textContent = describe(shown.ranked);
  byId("other").hidden = other === null;
  byId("user").classList.toggle("compares", other !== null);
  say("agreement", other === null ? "" : agreement(shown.ranked, other));
  if (other !== null) {
    byId("other-head").textContent = describe(other);
    showList("other-list", other, { open, other: ranksOf(shown.ranked) });
  }
  return showList("list", shown.ranked, { open, click, before, other: other && ranksOf(other) });
}

function offerSides(sides) {
  const groups = new Map();
  for (const side of sides.filter((each) => each.key !== "own")) {
    if (!groups.has(side.kind)) groups.set(side.kind, make("optgroup", { label: side.kind }));
    groups.get(side.kind).append(make("option", { value: side.key }, side.label));
  }
  byId("side").replaceChildren(make("option", { value: "" }, "nothing"), ...groups.values());
}

const compare = safely(async () => {
  const side = byId("side").value, userId = shown.user_id;
  other = side ? await get("list", { user_id: userId, side }) : null;
  renderLists(null);
  announce(other === null ? "One list" : `Two lists: ${shown.ranked.label}, and ${other.label}`);
});

const refresh = async () => {
  const page = await get("user", { user_id: shown.user_id });
  if (other !== null) other = await get("list", { user_id: page.user_id, side: other.side });
  return render(page);
};

const click = safely(async (item) => {
  const taken = await post("event",
    { user_id: shown.user_id, item_id: item.item_id, type: byId("event-type").value });
  const { fresh, shifted } = await refresh();
  announce(`Event posted: ${nameOf(item)}. ${plural(fresh, "new item")}, ${shifted} moved.`);
  if (!taken.stored) say("trouble", `The event is not in the store: ${NOT_STORED[taken.reason]}.`);
  byId("list-head").focus({ preventScroll: true });
});

/** Ask for another thought, and look until it is there. */
async function wish() {
  const status = byId("wish-status"), userId = shown.user_id, before = shown.night;
  status.textContent = "Asking …";
  const { workers_alive: alive, answer } = await post("wish",
    { user_id: userId, instruction: byId("wish-text").value.trim() || null });
  const began = Date.now(), heard = answer === null ? "" : `${answer} `;
  if (answer !== null) render(await get("user", { user_id: userId })); // the list obeys at once
  if (alive === 0) status.textContent = `${heard}No worker is alive, so the thought waits. Start one: ${WORKER}`;
  while (Date.now() - began < (alive === 0 ? STARTS_MS : THINKS_MS)) {
    const waited = Math.round((Date.now() - began) / 1000);
    if (alive !== 0) status.textContent = `${heard}A worker thinks … ${waited} s`;
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
    if (shown === null || shown.user_id !== userId) return;
    const page = await get("user", { user_id: userId });
    if (page.night && (!before || page.night.generation !== before.generation
        || page.night.created_at !== before.created_at)) {
      const known = new Set(before ? prefixesOf(before) : []);
      const fresh = prefixesOf(page.night).filter((each) => !known.has(each)).length;
      const { fresh: items, shifted } = render(page);
      status.textContent = `${heard}The night thought again: ${fresh} of ${page.night.num_prefixes} prefixes are `
        + `new, ${plural(items, "new item")} in the list, ${shifted} moved.`;
      return;
    }
  }
  status.textContent = `${heard}No thought came. Is a worker running? ${WORKER}`;
}

const route = safely(async () => {
  const wanted = new URLSearchParams(location.hash.slice(1));
  if (wanted.has("user")) await showUser(wanted.get("user"));
  else if (!location.hash || wanted.has("item")) await showWelcome();
  if (wanted.has("item")) await openItem(wanted.get("item"));
});

setUpSearch((kind, id) => {
  if (kind === "item") open(id);
  else location.hash = new URLSearchParams({ user: id });
}, report);
byId("side").addEventListener("change", compare);
byId("wish").addEventListener("submit", (event) => {
  event.preventDefault();
  safely(wish)();
});
byId("key").addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(byId("key-text").value.trim());
  byId("key").hidden = true;
  start();
});
byId("item").addEventListener("click", (event) => {
  if (event.target === byId("item")) byId("item").close(); // beside the dialog
});
for (const link of document.querySelectorAll(".jump a")) {
  link.addEventListener("click", (event) => {
    event.preventDefault(); // the fragment of the address names the user
    const head = document.querySelector(link.getAttribute("href"));
    head.scrollIntoView();
    head.focus({ preventScroll: true });
  });
}
addEventListener("hashchange", route);
setInterval(() => showStatus().catch(() => {}), STATUS_MS);

async function start() {
  await route();
  await safely(showStatus)();
}

start();
