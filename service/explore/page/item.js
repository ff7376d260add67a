// The dialog of one item, with its neighbours in the memory.

import { byId, draw, make, nameOf } from "./dom.js";
import { get } from "./api.js";

export async function openItem(itemId) {
  const item = await get("item", { item_id: itemId });
  byId("item-title").textContent = nameOf(item);
  byId("item-facts").replaceChildren(
    ...fact("id", item.item_id), ...fact("brand", item.brand), ...fact("category", item.category),
    ...fact("address (SID)", item.sid.join("-")),
    ...fact("interactions in training", String(item.popularity)),
    ...fact("others below its prefix", String(item.shares_prefix_with)));
  const most = Math.max(...item.neighbours.map((each) => each.weight));
  const rows = item.neighbours.map((each) => make("li", {},
    make("button", { class: "title", onclick: () => openItem(each.item_id) }, nameOf(each)),
    draw("svg", { class: "likely", viewBox: "0 0 100 2", preserveAspectRatio: "none", "aria-hidden": "true" },
      draw("rect", { width: 100 * each.weight / most, height: 2 })),
    make("span", { class: "count" }, each.weight.toFixed(3))));
  byId("neighbours").replaceChildren(
    ...(rows.length ? rows : [make("li", { class: "quiet" }, "The memory knows no neighbour of it.")]));
  const dialog = byId("item");
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
}

const fact = (name, value) => value ? [make("dt", {}, name), make("dd", {}, value)] : [];
