// The search field: a combobox over users and items.

import { byId, make, nameOf } from "./dom.js";
import { get } from "./api.js";

const PAUSE_MS = 150;

/** Let the field find; `choose` gets "user" or "item" and the id. */
export function setUpSearch(choose, report) {
  const field = byId("search"), list = byId("found");
  let newest = 0, timer = 0, active = -1;

  const options = () => [...list.querySelectorAll("[role=option]")];

  function close() {
    newest += 1;
    clearTimeout(timer);
    list.hidden = true;
    active = -1;
    field.setAttribute("aria-expanded", "false");
    field.removeAttribute("aria-activedescendant");
  }

  function pick(kind, id) {
    close();
    field.value = "";
    choose(kind, id);
  }

  function move(step) {
    const all = options();
    if (!all.length) return;
    active = (active + step + all.length) % all.length;
    all.forEach((each, at) => each.setAttribute("aria-selected", String(at === active)));
    all[active].scrollIntoView({ block: "nearest" });
    field.setAttribute("aria-activedescendant", all[active].id);
  }

  function option(kind, id, title, detail) {
    return make("li", {
      role: "option", id: `${kind}-${list.children.length}-${title.length}`, "aria-selected": "false",
      onmousedown: (event) => event.preventDefault(), onclick: () => pick(kind, id),
    }, make("span", {}, title), make("small", {}, detail));
  }

  const heading = (text) => make("li", { role: "presentation", class: "group" }, text);

  function show(found) {
    const rows = [];
    if (found.users.length) rows.push(heading("Users"));
    rows.push(...found.users.map((id) => option("user", id, id, "")));
    if (!found.has_all_users) rows.push(heading("… and more users: type on"));
    if (found.items.length) rows.push(heading("Items"));
    rows.push(...found.items.map((item) => option("item", item.item_id, nameOf(item), item.item_id)));
    list.replaceChildren(...(rows.length ? rows : [heading("Nothing begins like this")]));
    options().forEach((each, at) => { each.id = `option-${at}`; });
    active = -1;
    list.hidden = false;
    field.setAttribute("aria-expanded", "true");
  }

  async function look() {
    const mine = newest += 1;
    try {
      const found = await get("find", { text: field.value.trim() });
      if (mine === newest) show(found);
    } catch (error) {
      report(error);
    }
  }

  field.addEventListener("input", () => {
    clearTimeout(timer);
    timer = setTimeout(look, PAUSE_MS);
  });
  field.addEventListener("focus", look);
  field.addEventListener("blur", close);
  field.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown") move(1);
    else if (event.key === "ArrowUp") move(-1);
    else if (event.key === "Escape") close();
    else if (event.key === "Enter") (options()[Math.max(active, 0)] || field).click();
    else return;
    event.preventDefault();
  });
  document.addEventListener("keydown", (event) => {
    const isTyping = event.target.closest("input, textarea, select, dialog");
    if (event.key === "/" && !isTyping) {
      event.preventDefault();
      field.focus();
    }
  });
}
