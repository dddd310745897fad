const SAMPLES_SHOWN = 200; // in the table at a time: there may be many thousands

// `text: true` sorts by name, everything else by number, the largest first.
const SAMPLE_COLUMNS = [
  { key: "name", label: "Sample", text: true },
  { key: "verdict", label: "Verdict" },
  { key: "tap", label: "Error starts at", text: true },
  { key: "worst_ratio", label: "Ratio to noise", numeric: true },
  { key: "worst_tap", label: "Ratio at", text: true },
  { key: "output_error", label: "Output max abs", numeric: true },
  { key: "shapes", label: "Shapes", text: true },
];

const samples = (data.samples ?? []).map((sample) => ({
  ...sample,
  verdict: sample.aligned === null ? "not compared" : sample.aligned ? "aligned" : "diverged",
  shapes: Object.entries(sample.shapes).map(([name, shape]) => `${name} ${shapeText(shape)}`).join(", "),
}));
const sampleSort = { key: "verdict", descending: true };

const spreads = new Map((data.spreads ?? []).map((spread) => [spread.tap, spread]));

function sampleValue(sample, key) {
  if (key === "verdict") {
    const rank = { aligned: 0, "not compared": 1, diverged: 2 }[sample.verdict];
    return rank + (sample.worst_ratio === null ? 0 : 1 - 1 / (1 + sample.worst_ratio));
  }
  return sample[key];
}

function sortedSamples() {
  const { key, descending } = sampleSort;
  const compare = (left, right) => {
    const [a, b] = [sampleValue(left, key), sampleValue(right, key)];
    if (a === null || b === null) return (a === null) - (b === null); // what is missing comes last
    const order = typeof a === "string" ? a.localeCompare(b, undefined, { numeric: true }) : a - b;
    return descending ? -order : order;
  };
  return [...samples].sort(compare);
}

function renderSamples() {
  if (!samples.length) return;
  byId("samples").hidden = false;
  byId("samples-told").replaceChildren(...data.sample_words.map((sentence) => el("li", {}, sentence)));
  const head = SAMPLE_COLUMNS.map(({ key, label, text, numeric }, index) => {
    const sorted = sampleSort.key === key;
    const sort = button(label, "link", () => {
      Object.assign(sampleSort, { key, descending: sorted ? !sampleSort.descending : !text });
      renderSamples();
      byId("samples-table").querySelectorAll("th button")[index].focus({ preventScroll: true });
    });
    const order = sorted ? (sampleSort.descending ? "descending" : "ascending") : null;
    return el("th", { scope: "col", class: numeric ? "num" : null, "aria-sort": order }, sort);
  });
  const shown = sortedSamples().slice(0, SAMPLES_SHOWN);
  byId("samples-table").replaceChildren(el("thead", {}, el("tr", {}, ...head)),
    el("tbody", {}, ...shown.map(sampleLine)));
  const left = samples.length - shown.length;
  byId("samples-more").hidden = !left;
  byId("samples-more").textContent = `The first ${SAMPLES_SHOWN} of ${plural(samples.length, "sample")} in this order; all are in report.json.`;
}

function sampleLine(sample) {
  const badge = { aligned: "ok", diverged: "introduced", "not compared": "skipped" }[sample.verdict];
  const tap = (name) => (tapIndex.has(name)
    ? button(name, "link mono", () => revealRow(tapIndex.get(name), { open: true, page: true }), { title: "Show this layer" })
    : mono(name ?? "–"));
  const verdict = el("span", {}, el("span", { class: `badge v-${badge}` }, sample.verdict),
    sample.reason ? el("span", { class: "output-reason" }, sample.reason) : null);
  const cells = [mono(sample.name), verdict, tap(sample.tap), ratio(sample.worst_ratio), tap(sample.worst_tap),
    number(sample.output_error), mono(sample.shapes || "–")];
  const shown = sample.name === data.settings.shown;
  return el("tr", { class: shown ? "shown" : null, "aria-current": shown ? "true" : null },
    ...cells.map((cell, index) => el("td", { class: SAMPLE_COLUMNS[index].numeric ? "num" : null }, cell)));
}

function spreadBlock(row) {
  const spread = spreads.get(layers.tap[row]);
  if (!spread) return [];
  const line = (label, range, format) => el("tr", {}, el("th", { scope: "row" }, label),
    el("td", { class: "num" }, range ? format(range.mean) : "–"), el("td", { class: "num" }, range ? format(range.worst) : "–"),
    el("td", {}, range && range.worst ? range.worst_sample : "–"));
  const head = ["", "Mean", "Worst", "at"].map((label, index) =>
    el(index ? "th" : "td", index ? { scope: "col", class: index < 3 ? "num" : null } : {}, label));
  const counts = `Differs in ${percent(spread.differs / spread.compared)} and is to blame in ` +
    `${percent(spread.introduces / spread.compared)} of ${plural(spread.compared, "sample")}.`;
  return [el("h4", {}, "Over all samples"), el("p", { class: "rule" }, counts),
    el("table", { class: "figures" }, el("thead", {}, el("tr", {}, ...head)), el("tbody", {},
      line("Propagated max abs", spread.propagated, number), line("Introduced max abs", spread.introduced, number),
      line("Ratio to noise", spread.noise_ratio, ratio)))];
}
