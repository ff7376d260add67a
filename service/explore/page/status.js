// The footer: release, night, learner, workers, users without an item.

import { ageOf, byId, make, plural } from "./dom.js";
import { get } from "./api.js";

export async function showStatus() {
  const status = await get("status");
  byId("status").replaceChildren(
    ...fact("release", `${status.release} · ${plural(status.num_items, "item")}`, status.unready),
    ...fact("model", status.model),
    ...fact("live night", night(status.night), status.night_refusal),
    ...fact("gates", gates(status.gates), status.gates && failed(status.gates)),
    ...fact("learner", learner(status.learner), status.learner && status.learner.refusal),
    ...fact("worker", worker(status.workers_alive)),
    ...fact("users without an item of this release",
      `${status.users_without_item} of ${status.users_looked_at} sampled`,
      status.users_without_item * 2 > status.users_looked_at ? "does this store belong to this release?" : null));
}

function night(live) {
  if (live === null) return "none";
  const canary = live.canary_percent === null ? "" : `, canary ${live.canary_percent}%`;
  return `${ageOf(live.created_at)} · ${plural(live.users, "user")} · epoch ${live.epoch}${canary}`;
}

function gates(report) {
  if (report === null) return "not known";
  const passed = report.verdicts.filter((each) => each.has_passed).length;
  return make("span", { title: report.verdicts.map(verdict).join("\n") },
    `${passed} of ${report.verdicts.length} passed`);
}

function failed(report) {
  const names = report.verdicts.filter((each) => !each.has_passed).map((each) => each.name);
  return names.length ? `${names.join(", ")} failed; overruled: ${report.forced}` : null;
}

const verdict = ({ name, value, expected }) =>
  `${name}: ${value === null ? "too few data" : value.toPrecision(3)}, expected ${expected}`;

function learner(followed) {
  if (followed === null) return "none: no live folder is followed";
  return `${plural(followed.deltas, "delta")} · epoch ${followed.epoch} · ${ageOf(followed.written_ms / 1000)}`;
}

function worker(alive) {
  if (alive === null) return "not known";
  return alive === 0 ? "none is alive" : `${alive} alive`;
}

function fact(name, value, trouble) {
  const warning = trouble ? make("span", { class: "warning" }, ` ${trouble}`) : null;
  return [make("div", {}, make("dt", {}, name), make("dd", {}, value, warning))];
}
