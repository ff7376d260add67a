// Elements from plain text. Nothing here or elsewhere on the page makes markup from a string.

export const byId = (id) => document.getElementById(id);

/** Make an element; `on*` properties are listeners, strings among the children become text. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Make an SVG element of attributes alone. */
export function draw(tag, attributes, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, String(value));
  element.append(...children);
  return element;
}

/** Show text in an element, and hide the element without text. */
export function say(id, text) {
  const element = byId(id);
  element.textContent = text;
  element.hidden = !text;
}

export const announce = (text) => { byId("announce").textContent = text; };

export const nameOf = (item) => item.title || item.item_id;

export const signed = (number) => number === null ? "–"
  : (number < 0 ? "−" : "+") + Math.abs(number).toFixed(2);

export const plural = (count, noun, ending = "s") =>
  `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : ending}`;

/** Return the last two levels of a category path, with the whole path as a tooltip. */
export const categoryOf = (item) => item.category === null ? ""
  : make("span", { title: item.category }, item.category.split(" › ").slice(-2).join(" › "));

/** Return a <time> of unix seconds: the day, and the time of day for today. */
export function timeOf(seconds) {
  const at = new Date(seconds * 1000);
  const isToday = at.toDateString() === new Date().toDateString();
  const text = isToday ? at.toLocaleTimeString("en-GB") : at.toISOString().slice(0, 10);
  return make("time", { datetime: at.toISOString(), title: at.toISOString() }, text);
}

export function ageOf(seconds) {
  const age = Math.max(Date.now() / 1000 - seconds, 0);
  if (age < 90) return `${Math.round(age)} s ago`;
  if (age < 5400) return `${Math.round(age / 60)} min ago`;
  return age < 129600 ? `${Math.round(age / 3600)} h ago` : `${Math.round(age / 86400)} days ago`;
}
