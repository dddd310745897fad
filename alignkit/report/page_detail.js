const FIGURES = [
  ["Max abs error", "max_abs", number],
  ["Noise floor", null, null],
  ["Ratio to noise", null, null],
  ["Mean abs error", "mean_abs", number],
  ["RMSE", "rmse", number],
  ["MSE", "mse", number],
  ["Max relative error", "max_rel", number],
  ["Relative, to own rounding", null, null],
  ["Cosine similarity", "cosine", cosine],
  ["SQNR, dB", "sqnr_db", decibels],
  ["Max ULP", "ulp_max", number],
  ["Mismatched share", "mismatched", percent],
  ["Scale, max |reference|", "scale", number],
  ["Elements", "size", number],
  ["Non-finite mismatches", "nonfinite_mismatches", number],
];

function renderDetail() {
  const panel = byId("detail");
  const row = state.selected;
  panel.hidden = !state.open || row < 0;
  byId("panes").classList.toggle("with-detail", !panel.hidden);
  if (panel.hidden) return panel.replaceChildren();
  const blocks = [detailHead(row), detailFacts(row)];
  if (layers.size[row] !== null || layers.introduced_size[row] !== null) {
    blocks.push(figuresTable(row));
  }
  if (layers.tolerance[row]) blocks.push(el("h4", {}, "Judged by"), el("p", { class: "rule" }, layers.tolerance[row]));
  blocks.push(...spreadBlock(row), ...histogramBlock(row));
  panel.replaceChildren(...blocks);
  panel.scrollTop = 0;
  return undefined;
}

function detailHead(row) {
  const copy = copyButton(pageLink("tap", layers.tap[row]), "a link to this tap");
  copy.title = "Copy a link to this tap";
  return el("div", { class: "detail-head" },
    el("div", { class: "detail-tools" }, verdictBadge(layers.verdict[row]), el("span", { class: "fill" }),
      button("↑", "ghost small", () => moveSelection(-1), { "aria-label": "Previous row" }),
      button("↓", "ghost small", () => moveSelection(1), { "aria-label": "Next row" }),
      copy, button("✕", "ghost small", closeDetail, { "aria-label": "Close the details" })),
    el("h3", { class: "mono" }, layers.tap[row]),
    layers.reason[row] ? el("p", { class: "reason" }, layers.reason[row]) : null);
}

function detailFacts(row) {
  const accused = data.culprits.some(({ tap }) => tap === layers.tap[row]);
  const card = button("Show the diagnosis", "link", () => revealCulprit(layers.tap[row]));
  const source = layers.source[row];
  return pairs(el("dl", { class: "pairs" }), [
    ["Module", button(modulePath(row), "link mono", () => selectModule(modulePath(row)), { title: "Filter by this module" })],
    ...(accused ? [["Culprit", card]] : []),
    ["Source", source === null ? "–" : withCopy(source, "the place in the source")],
    ["Type, kind", `${layers.module_type[row] || "–"}, ${layers.kind[row]}`],
    ["Tensor", mono(`${shapeText(layers.shape[row])} ${layers.dtype[row] ?? ""}`)],
    ["ONNX value", mono(layers.onnx_value[row] ?? "–")],
    ["Row", `${row} of 0 to ${total - 1}`],
  ]);
}

function figuresTable(row) {
  const special = {
    "Noise floor": [number(layers.propagated_noise[row]), number(layers.noise_floor[row])],
    "Ratio to noise": [propagatedRatio(row), ratio(noiseRatio(row))],
    "Relative, to own rounding": ["–", ratio(layers.relative_ratio[row])],
    "Max ULP": [ulps(row, layers.ulp_max[row]), ulps(row, layers.introduced_ulp_max[row])],
  };
  const figures = FIGURES.map(([name, key, format]) =>
    [name, ...(special[name] ?? [format(layers[key][row]), format(layers[`introduced_${key}`][row])])]);
  const line = ([name, ...values]) => el("tr", {}, el("th", { scope: "row" }, name),
    ...values.map((value) => el("td", { class: "num" }, value)));
  const head = el("tr", {}, el("td", {}), el("th", { scope: "col", class: "num s-propagated" }, "Propagated"),
    el("th", { scope: "col", class: "num s-introduced" }, "Introduced"));
  return el("table", { class: "figures" }, el("thead", {}, head),
    el("tbody", {}, ...figures.map(line), ...nonfiniteFigures(row).map(line)),
    el("tbody", { class: "worst" }, ...worstFigures(row).map(line)));
}

function nonfiniteFigures(row) {
  const counts = (what, prefix) => [`${prefix}reference_${what}`, `${prefix}candidate_${what}`]
    .map((key) => number(layers[key][row])).join(" | ");
  return [["NaN, PyTorch | ONNX", counts("nan", ""), counts("nan", "introduced_")],
    ["Inf, PyTorch | ONNX", counts("inf", ""), counts("inf", "introduced_")]];
}

function propagatedRatio(row) {
  const [error, noise] = [layers.max_abs[row], layers.propagated_noise[row]];
  return error === null || !noise ? "–" : ratio(error / noise);
}

function worstFigures(row) {
  const index = (prefix) => layers[`${prefix}worst_index`][row];
  // JSON holds no NaN or Inf, so a value that is null at a known index was one of them.
  const value = (key, prefix) => String(layers[`${prefix}${key}`][row] ?? (index(prefix) === null ? "–" : "not finite"));
  const both = (show) => [show(""), show("introduced_")];
  return [
    ["Worst element", ...both((prefix) => (index(prefix) === null ? "–" : `[${index(prefix).join(", ")}]`))],
    ["PyTorch there", ...both((prefix) => value("worst_reference", prefix))],
    ["ONNX there", ...both((prefix) => value("worst_candidate", prefix))],
  ];
}

const histograms = new Map(data.histograms.map((histogram) => [histogram.tap, histogram]));

function histogramBlock(row) {
  const histogram = histograms.get(layers.tap[row]);
  if (!histogram) return [];
  const bars = [["0", histogram.zeros, "no error"], ...histogram.counts.map((count, i) =>
    [`1e${histogram.edges[i]}`, count, `1e${histogram.edges[i]} to 1e${histogram.edges[i + 1]}`])];
  const top = Math.log10(1 + Math.max(1, ...bars.map(([, count]) => count)));
  const nodes = bars.map(([label, count, range]) => {
    const bar = el("div", { class: "bar" });
    bar.style.height = `${(100 * Math.log10(1 + count)) / top}%`;
    return el("div", { class: "bin", title: `${range}: ${plural(count, "element")}` },
      el("div", { class: "bar-room" }, bar), el("span", { class: "bin-label" }, label),
      el("span", { class: "offscreen" }, `: ${plural(count, "element")}`));
  });
  return [el("h4", {}, "Error histogram ", el("small", {}, "elements by |error|, logarithmic height")),
    el("div", { class: "histogram" }, ...nodes)];
}
