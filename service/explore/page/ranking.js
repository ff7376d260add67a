// A ranked list: reason, rung and parts of the score of each item, and how the list moves.

import { byId, categoryOf, draw, make, nameOf, signed } from "./dom.js";

const MOVE = { duration: 450, easing: "cubic-bezier(.2, .7, .2, 1)" };
const calm = matchMedia("(prefers-reduced-motion: reduce)");

/**
 * Show a list in the element `id`; return how many items are new and how many moved.
 *
 * open and click take an item; click is null where no event can be posted. other: ranks of the
 * same items in the list beside it, or null.
 */
export function showList(id, ranked, { open, click = null, before = null, other = null }) {
  const list = byId(id), places = new Map(), bounds = boundsOf(ranked.items);
  for (const row of list.children) places.set(row.dataset.item, row.getBoundingClientRect().top);
  const ranks = new Map((before ? before.items : []).map((item) => [item.item_id, item.rank]));
  const rows = ranked.items.map((item) => {
    const note = other ? beside(item, other) : before ? moved(item, ranks) : null;
    return row(item, bounds, note, open, click);
  });
  list.replaceChildren(...rows);
  if (before && !calm.matches) rows.forEach((each) => slide(each, places.get(each.dataset.item)));
  const fresh = ranked.items.filter((item) => !ranks.has(item.item_id));
  const shifted = ranked.items.filter(
    (item) => ranks.has(item.item_id) && ranks.get(item.item_id) !== item.rank);
  return { fresh: fresh.length, shifted: shifted.length };
}

export const describe = (ranked) =>
  `${ranked.label}: ${ranked.source}${ranked.degraded ? ", degraded" : ""} · ${ranked.total_ms} ms`;

/** Tell how far two lists agree. */
export function agreement(one, other) {
  const ranks = ranksOf(other);
  const both = one.items.filter((item) => ranks.has(item.item_id));
  const same = both.filter((item) => ranks.get(item.item_id) === item.rank);
  return `${both.length} of ${one.items.length} items are in both lists, ${same.length} at the same place.`;
}

export const ranksOf = (ranked) => new Map(ranked.items.map((item) => [item.item_id, item.rank]));

function moved(item, ranks) {
  const was = ranks.get(item.item_id);
  if (was === undefined) return make("span", { class: "note new" }, "new");
  if (was === item.rank) return null;
  const up = was > item.rank;
  return make("span", { class: `note ${up ? "up" : "down"}` },
    `${up ? "▲" : "▼"} ${Math.abs(was - item.rank)}`);
}

function beside(item, other) {
  const rank = other.get(item.item_id);
  if (rank === item.rank) return null;
  return rank === undefined ? make("span", { class: "note new" }, "only here")
    : make("span", { class: "note" }, `${rank}. there`);
}

function row(item, bounds, note, open, click) {
  const post = click && make("button",
    { class: "post", "aria-label": `Post an event: ${nameOf(item)}`, onclick: () => click(item) }, "+ event");
  return make("li", { "data-item": item.item_id, "data-path": item.path },
    make("span", { class: "rank" }, String(item.rank)),
    make("div", { class: "body" },
      make("p", { class: "name" },
        make("button", { class: "title", onclick: () => open(item.item_id) }, nameOf(item)), " ", note),
      make("p", { class: "meta" }, make("span", { class: `rung ${item.source}` }, item.source),
        " ", categoryOf(item)),
      reason(item),
      parts(item, bounds)),
    make("div", { class: "side" },
      make("span", { class: "score" }, item.score === null ? "–" : item.score.toFixed(2)), post || ""));
}

function reason(item) {
  const seen = item.because.map(nameOf), texts = item.reason === null ? [] : [item.reason];
  if (item.agrees) texts.push(`Thought ${item.agrees.path + 1} names its topic: ${item.agrees.topic}.`);
  const tip = seen.length ? ["Most evidence, most first:", ...seen].join("\n") : null;
  return texts.length ? make("p", { class: "reason", title: tip }, texts.join(" ")) : "";
}

function boundsOf(items) {
  const ends = items.flatMap((item) => item.model === null ? [] : [item.model, item.score]);
  return { low: Math.min(0, ...ends), high: Math.max(0, ...ends) };
}

/** Draw the model's part from 0 to the left, from its end the memory's, then the night's and the wish's. */
function parts(item, { low, high }) {
  if (item.model === null) return "";
  const remembered = item.model + item.memory, thought = remembered + (item.night || 0);
  const x = (value) => 200 * (value - low) / Math.max(high - low, 1e-9);
  const span = (one, two, y, name) => draw("rect",
    { class: name, x: Math.min(x(one), x(two)), y, width: Math.abs(x(two) - x(one)), height: 3, rx: 1 });
  return make("div", { class: "parts" },
    draw("svg", { viewBox: "0 0 200 8", preserveAspectRatio: "none", "aria-hidden": "true" },
      span(0, item.model, 0.5, "model"), span(item.model, remembered, 4.5, "memory"),
      item.night ? span(remembered, thought, 4.5, "night") : "",
      item.wish ? span(thought, item.score, 4.5, "wish") : "",
      draw("line", { x1: x(0), x2: x(0), y1: 0, y2: 8 })),
    make("p", { class: "numbers" },
      number("model", item.model), number("memory", item.memory),
      item.night ? number("night", item.night) : null,
      item.wish ? number("wish", item.wish) : null,
      item.prefix === null ? null : number("prefix", item.prefix)));
}

const number = (name, value) =>
  make("span", { class: name }, make("span", { class: "unseen" }, `${name} `), signed(value));

/** Let a row slide from its former place, and a new one appear. */
function slide(row, was) {
  if (was === undefined) {
    row.animate([{ opacity: 0, transform: "translateX(12px)" }, { opacity: 1, transform: "none" }], MOVE);
    return;
  }
  const step = was - row.getBoundingClientRect().top;
  if (step) row.animate([{ transform: `translateY(${step}px)` }, { transform: "none" }], MOVE);
}
