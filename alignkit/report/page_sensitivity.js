function renderSensitivity() {
  if (!data.sensitivity.length) return;
  byId("sensitivity").hidden = false;
  const head = ["Layer", "Op", "Precision", "Introduced SQNR dB", "Propagated SQNR dB", "Share of the output’s error",
    "ONNX nodes to keep"];
  const numeric = (index) => (index >= 3 && index <= 5 ? "num" : null);
  const line = (layer) => el("tr", {}, ...sensitivityCells(layer).map((cell, index) =>
    el("td", { class: numeric(index) }, cell)));
  byId("sensitivity-table").append(
    el("thead", {}, el("tr", {}, ...head.map((label, index) => el("th", { scope: "col", class: numeric(index) }, label)))),
    el("tbody", {}, ...data.sensitivity.map(line)));
  byId("sensitivity-advice").hidden = !data.sensitivity_advice;
  byId("sensitivity-advice").textContent = data.sensitivity_advice;
}

function sensitivityCells(layer) {
  const row = tapIndex.get(layer.tap);
  const name = row === undefined ? el("span", { class: "mono" }, layer.tap)
    : button(layer.tap, "link mono", () => revealRow(row, { open: true, page: true }), { title: layer.module });
  const nodes = el("span", { class: "mono" }, layer.nodes.join(", "));
  return [name, layer.op, layer.precision, decibels(layer.introduced_db), decibels(layer.propagated_db),
    layer.output_share === null ? "–" : percent(layer.output_share), nodes];
}
