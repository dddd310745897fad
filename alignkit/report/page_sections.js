function renderOutputs() {
  if (!data.outputs.length) return;
  byId("outputs").hidden = false;
  const head = ["Output", "Verdict", "Shape", "Dtype", "Deployed max abs", "With taps max abs", "Noise floor",
    "Deployed SQNR dB", "Deployed mismatched", "Observer effect"];
  const numeric = (index) => (index >= 4 && index <= 8 ? "num" : null);
  const rows = data.outputs.map((output) => el("tr", {}, ...outputCells(output).map((cell, index) =>
    el("td", { class: numeric(index) }, cell))));
  byId("outputs-table").append(
    el("thead", {}, el("tr", {}, ...head.map((label, index) => el("th", { scope: "col", class: numeric(index) }, label)))),
    el("tbody", {}, ...rows));
}

function outputCells(output) {
  const row = tapIndex.get(output.tap);
  const name = row === undefined ? el("span", { class: "mono" }, output.name)
    : button(output.name, "link mono", () => revealRow(row, { open: true, page: true }), { title: output.tap });
  const effect = output.observer_effect ? el("span", { class: "badge v-propagated" }, "yes: taps change the result") : "no";
  const verdict = el("span", {}, verdictBadge(output.verdict),
    output.reason ? el("span", { class: "output-reason" }, output.reason) : null);
  return [name, verdict, shapeText(output.shape), output.dtype ?? "–", number(output.max_abs), number(output.probed_max_abs),
    number(output.noise_floor), decibels(output.sqnr_db), percent(output.mismatched), effect];
}

function meter(share, className) {
  const fill = el("div", { class: `fill-bar ${className}` });
  fill.style.width = `${100 * share}%`;
  return el("div", { class: "meter", "aria-hidden": "true" }, fill);
}

function renderCoverage() {
  const { compared, not_compared: left, reasons } = data.coverage;
  const all = compared + left;
  const body = [el("p", {}, el("strong", {}, all ? `${((100 * compared) / all).toFixed(1)} %` : "–"),
    ` of ${plural(all, "tap")} compared`), meter(all ? compared / all : 0, "good")];
  const entries = Object.entries(reasons).sort((a, b) => b[1] - a[1]).map(([reason, count]) => [plainNumber.format(count), reason]);
  if (entries.length) body.push(pairs(el("dl", { class: "pairs counts" }), entries));
  byId("coverage-body").append(...body);
}

function renderTimings() {
  const entries = Object.entries(data.timings);
  if (!entries.length) return;
  byId("timings").hidden = false;
  const longest = Math.max(...entries.map(([, seconds]) => seconds), 1e-9);
  const sum = entries.reduce((seconds, [, more]) => seconds + more, 0);
  const line = ([stage, seconds]) => el("tr", {}, el("th", { scope: "row" }, stage),
    el("td", { class: "wide" }, meter(seconds / longest, "plain")), el("td", { class: "num" }, `${seconds.toFixed(2)} s`));
  byId("timings-body").append(el("table", { class: "timings" }, el("tbody", {}, ...entries.map(line),
    el("tr", { class: "sum" }, el("th", { scope: "row" }, "sum"), el("td"), el("td", { class: "num" }, `${sum.toFixed(2)} s`)))));
}

function renderNotes() {
  byId("notes").hidden = data.notes.length === 0;
  byId("notes-list").append(...data.notes.map((note) => el("li", {}, note)));
}

function renderAbout() {
  const text = (record) => Object.entries(record).map(([name, value]) => [name, settingText(value)]);
  pairs(byId("settings-list"), text(data.settings));
  pairs(byId("environment-list"), text(data.environment));
}

function buildSections() {
  const shown = ["candidates", "samples", "culprits", "chart-section", "explorer", "sensitivity", "outputs", "coverage"].map(byId).filter((section) => !section.hidden);
  const names = { candidates: "Candidates", samples: "Samples", culprits: "Culprits", "chart-section": "Chart", explorer: "Layers", sensitivity: "Sensitivity", outputs: "Outputs", coverage: "Coverage" };
  byId("sections").append(...shown.map((section) =>
    button(names[section.id], "nav", () => section.scrollIntoView({ block: "start" }))));
}
