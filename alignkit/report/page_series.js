function drawSeries(pen, series) {
  const values = layers[series.key];
  const spacing = plotWidth() / (chart.to - chart.from);
  const strokes = spacing < 1 ? bucketStrokes(pen, series, values) : pointStrokes(values);
  strokeLine(pen, series, strokes);
  for (const points of strokes) if (points.length === 1) drawMark(pen, series, ...points[0]); // no line to be seen
  if (spacing < MARK_SPACING) return drawZeros(pen, series, values);
  for (let row = chart.from; row < chart.to; row++) {
    if (values[row] !== null) drawMark(pen, series, chartX(row), chartY(values[row], series));
  }
  return undefined;
}

// A figure that is missing breaks the line, and so does a zero: it lies in its band, and a line across it
// would claim an error there.
function pointStrokes(values) {
  const strokes = [[]];
  for (let row = chart.from; row < chart.to; row++) {
    if (values[row] > 0) strokes.at(-1).push([chartX(row), chartY(values[row])]);
    else if (strokes.at(-1).length) strokes.push([]);
  }
  return strokes;
}

// More rows than pixels: the line follows each pixel's largest value, so that no peak is lost.
function bucketStrokes(pen, series, values) {
  const buckets = Math.floor(plotWidth());
  const perBucket = (chart.to - chart.from) / buckets;
  const strokes = [[]];
  pen.globalAlpha = 0.4;
  for (let bucket = 0; bucket < buckets; bucket++) {
    let [low, high] = [Infinity, 0];
    const end = Math.min(chart.to, chart.from + Math.ceil((bucket + 1) * perBucket));
    for (let row = chart.from + Math.floor(bucket * perBucket); row < end; row++) {
      if (values[row] > 0) [low, high] = [Math.min(low, values[row]), Math.max(high, values[row])];
    }
    if (high === 0) {
      if (strokes.at(-1).length) strokes.push([]);
      continue;
    }
    const x = MARGIN.left + bucket + 0.5;
    strokes.at(-1).push([x, chartY(high)]);
    if (low < high) line(pen, x, chartY(low), x, chartY(high), themeColour(series.colour));
  }
  pen.globalAlpha = 1;
  return strokes;
}

function strokeLine(pen, series, strokes) {
  pen.strokeStyle = themeColour(series.colour);
  pen.lineWidth = 1.5;
  pen.setLineDash(series.dash);
  pen.beginPath();
  for (const points of strokes) points.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.stroke();
  pen.setLineDash([]);
}

function drawZeros(pen, series, values) {
  pen.fillStyle = themeColour(series.colour);
  const y = chartY(0, series) - 2;
  let free = -Infinity; // one mark per pixel is enough
  for (let row = chart.from; row < chart.to; row++) {
    if (values[row] !== 0 || chartX(row) < free) continue;
    pen.fillRect(chartX(row) - 0.5, y, 1, 4);
    free = chartX(row) + 1;
  }
}

function drawMark(pen, series, x, y) {
  pen.strokeStyle = pen.fillStyle = themeColour(series.colour);
  pen.lineWidth = 1.5;
  pen.beginPath();
  if (series.mark === "circle") pen.arc(x, y, 2.8, 0, 7);
  else if (series.mark === "diamond") [[0, -4.2], [4.2, 0], [0, 4.2], [-4.2, 0]].forEach(([dx, dy]) => pen.lineTo(x + dx, y + dy));
  else [[-2.6, -2.6, 2.6, 2.6], [-2.6, 2.6, 2.6, -2.6]].forEach(([x1, y1, x2, y2]) => {
    pen.moveTo(x + x1, y + y1);
    pen.lineTo(x + x2, y + y2);
  });
  if (series.mark === "cross") pen.stroke();
  else pen.fill();
}

// Of the rows under a few pixels, the one that a reader would look for.
function rowAt(x) {
  const at = (px) => chart.from + Math.floor(((px - MARGIN.left) / plotWidth()) * (chart.to - chart.from));
  const clamp = (row) => Math.min(chart.to - 1, Math.max(chart.from, row));
  const spacing = plotWidth() / (chart.to - chart.from);
  let best = clamp(at(x));
  if (spacing >= 4) return best;
  const weight = (row) => [-VERDICT_NAMES.indexOf(layers.verdict[row]), layers.introduced_max_abs[row] ?? -1];
  for (let row = clamp(at(x - 3)); row <= clamp(at(x + 3)); row++) {
    const [[verdict, error], [bestVerdict, bestError]] = [weight(row), weight(best)];
    if (verdict > bestVerdict || (verdict === bestVerdict && error > bestError)) best = row;
  }
  return best;
}

function listenToChart() {
  const area = byId("chart");
  const offset = (event) => event.clientX - area.getBoundingClientRect().left;
  area.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    chart.drag = offset(event);
    area.setPointerCapture(event.pointerId);
  });
  area.addEventListener("pointermove", (event) => showTooltip(offset(event)));
  area.addEventListener("pointerleave", () => { byId("tooltip").hidden = byId("cursor").hidden = true; });
  area.addEventListener("pointerup", (event) => {
    const [from, to] = [chart.drag, offset(event)];
    chart.drag = null;
    if (from === null) return;
    if (Math.abs(to - from) < 6) revealRow(rowAt(to));
    else zoom(rowAt(Math.min(from, to)), rowAt(Math.max(from, to)) + 1);
  });
  area.addEventListener("dblclick", () => zoom(0, total));
  byId("zoom-reset").addEventListener("click", () => zoom(0, total));
}

function zoom(from, to) {
  if (to - from < 2) return;
  Object.assign(chart, { from, to });
  requestChart();
}

function showTooltip(x) {
  const row = rowAt(x);
  const tooltip = byId("tooltip");
  const cursor = byId("cursor");
  const start = chart.drag ?? chartX(row);
  const end = chart.drag === null ? start + 1 : x;
  cursor.hidden = tooltip.hidden = false;
  cursor.style.left = `${Math.min(start, end)}px`;
  cursor.style.width = `${Math.max(1, Math.abs(end - start))}px`;
  tooltip.replaceChildren(el("div", { class: "tooltip-head" }, tapName(layers.tap[row]), verdictBadge(layers.verdict[row])),
    pairs(el("dl", { class: "pairs" }), SERIES.map(({ key, name }) => [name, number(layers[key][row])])));
  const left = chartX(row) + 14;
  const flip = left + tooltip.offsetWidth > chart.width;
  tooltip.style.left = `${Math.max(0, flip ? left - tooltip.offsetWidth - 28 : left)}px`;
}

function renderReadout() {
  const row = state.selected;
  if (row < 0) return;
  const figures = SERIES.map(({ key, name }) => `${name} ${number(layers[key][row])}`).join(" · ");
  const jump = button("Open", "link", () => revealRow(row, { open: true, page: true }));
  byId("chart-readout").replaceChildren(el("strong", { class: "mono" }, layers.tap[row]), ` ${layers.verdict[row]} · ${figures} `, jump);
}
