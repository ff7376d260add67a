// The history column: what a user did, newest first.

import { byId, categoryOf, make, nameOf, plural, say, timeOf } from "./dom.js";

const FIRST = 10;

export function showHistory(page, openItem) {
  const parts = [plural(page.num_events, "event")];
  const unknown = page.history.filter((event) => !event.known).length;
  if (unknown) parts.push(`${unknown} of an item that this release lacks`);
  if (page.has_lost_history) parts.push("a part does not decode");
  say("history-facts", parts.join(" · "));
  const rows = page.history.map((event) => row(event, openItem));
  byId("history").replaceChildren(...rows.slice(0, FIRST));
  const more = byId("history-more");
  more.hidden = rows.length <= FIRST;
  more.textContent = `Show ${rows.length - FIRST} older`;
  more.onclick = () => {
    byId("history").append(...rows.slice(FIRST));
    more.hidden = true;
    rows[FIRST].querySelector("button, span").focus();
  };
}

function row(event, openItem) {
  const what = [event.type, event.value === null ? "" : String(event.value)].filter(Boolean);
  const name = event.known
    ? make("button", { class: "title", onclick: () => openItem(event.item_id) }, nameOf(event))
    : make("span", { class: "title", tabindex: "-1" }, event.item_id);
  return make("li", {},
    make("p", { class: "meta" }, timeOf(event.timestamp), what.length ? ` · ${what.join(" ")}` : ""),
    name,
    make("p", { class: "meta" }, event.known ? categoryOf(event) : "not in this release"));
}
