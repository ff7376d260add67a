// The night column: thoughts, and C_u as a tree.

import { ageOf, byId, draw, make, plural, say } from "./dom.js";

const narrow = matchMedia("(max-width: 760px)");

/** Show a night; prefixes that `before` lacks are marked as new. */
export function showNight(night, before) {
  const known = new Set(before ? prefixesOf(before) : []);
  say("night-facts", night === null
    ? "The night has no record of this user: the online model answers alone."
    : `Thought ${ageOf(night.created_at)} · ${plural(night.num_prefixes, "prefix", "es")}`
      + ` · ${plural(night.num_items, "item")} below them`);
  const thoughts = night === null ? [] : night.thoughts;
  byId("thoughts").replaceChildren(...thoughts.map(thought));
  byId("thoughts-head").hidden = !thoughts.length;
  const tree = night === null ? [] : night.tree;
  const best = Math.max(...tree.flatMap((node) => node.below.map((each) => each.logprob)));
  byId("tree").replaceChildren(...tree.map((node, at) => branch(node, at < (narrow.matches ? 1 : 3), best, known)));
  byId("tree-head").hidden = !tree.length;
}

export const prefixesOf = (night) =>
  night.tree.flatMap((node) => node.below.map((each) => each.codes.join("-")));

function thought(text, path) {
  const toggle = (event) => mark(event.currentTarget, path);
  return make("li", {}, make("button",
    { class: "thought", "aria-pressed": "false", title: "Show its prefixes and items", onclick: toggle },
    make("span", { class: "number" }, String(path + 1)), make("span", {}, text)));
}

/** Mark the prefixes and items of one thought, or of none. */
function mark(button, path) {
  const isOn = button.getAttribute("aria-pressed") !== "true";
  for (const each of byId("thoughts").querySelectorAll("button")) {
    each.setAttribute("aria-pressed", String(each === button && isOn));
  }
  for (const each of document.querySelectorAll("[data-path]")) {
    each.classList.toggle("marked", isOn && each.dataset.path === String(path));
  }
}

function branch(node, isOpen, best, known) {
  return make("li", {}, make("details", { open: isOpen },
    make("summary", {}, code(node), make("span", { class: "what" }, holds(node)),
      make("span", { class: "count" }, plural(node.below.length, "prefix", "es"))),
    make("ul", {}, ...node.below.map((each) => leaf(each, best, known)))));
}

function leaf(node, best, known) {
  const isNew = known.size > 0 && !known.has(node.codes.join("-"));
  const finder = node.path === null ? "no thought" : `thought ${node.path + 1}`;
  return make("li", { "data-path": node.path, class: isNew ? "new" : null, title: node.example },
    code(node), make("span", { class: "what" }, holds(node)),
    make("span", { class: "count" }, plural(node.num_items, "item")),
    bar(Math.exp(node.logprob - best)),
    make("span", { class: "unseen" }, `, ${finder}, log-probability ${node.logprob.toFixed(2)}`));
}

const code = (node) => make("code", {}, node.codes.join("-"));

function holds(node) {
  if (node.num_items === 0) return "not in this release";
  if (node.mostly === null) return node.example || "items without a category";
  const share = Math.round(100 * node.share);
  return share === 100 ? node.mostly : `${node.mostly} ${share}%`;
}

function bar(share) {
  return draw("svg", { class: "likely", viewBox: "0 0 100 2", preserveAspectRatio: "none", "aria-hidden": "true" },
    draw("rect", { width: Math.max(100 * share, 1), height: 2 }));
}
