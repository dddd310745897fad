const SERIES = [
  { key: "max_abs", name: "propagated", colour: "--propagated", dash: [], mark: "circle", zero: -7 },
  { key: "introduced_max_abs", name: "introduced", colour: "--introduced", dash: [6, 4], mark: "diamond", zero: 0 },
  { key: "noise_floor", name: "noise floor", colour: "--noise", dash: [1.5, 3], mark: "cross", zero: 7 },
];
const MARGIN = { left: 58, right: 14, top: 22, bottom: 24 };
const ZERO_BAND = 28;
const MARK_SPACING = 7;
const chart = { from: 0, to: total, width: 0, height: 0, low: -8, high: 0, drag: null, pending: false };

let palette = new Map(); // the colours of the current theme, asked for once per drawing

function themeColour(name) {
  if (!palette.has(name)) {
    const probe = byId("canvas");
    probe.style.color = `var(${name})`;
    palette.set(name, getComputedStyle(probe).color);
  }
  return palette.get(name);
}

function buildChart() {
  byId("chart-section").hidden = total === 0;
  chart.to = total;
  let [low, high] = [Infinity, -Infinity];
  for (const { key } of SERIES) {
    for (const value of layers[key] ?? []) {
      if (value > 0) [low, high] = [Math.min(low, value), Math.max(high, value)];
    }
  }
  if (high > 0) {
    chart.low = Math.floor(Math.log10(low));
    chart.high = Math.max(chart.low + 1, Math.ceil(Math.log10(high)));
  }
  byId("legend").append(...SERIES.map(legendEntry));
  byId("canvas").setAttribute("aria-label", "Chart of the error of each layer; the table below holds the same figures.");
  new ResizeObserver(() => requestChart()).observe(byId("chart"));
  listenToChart();
}

function legendEntry(series) {
  const sample = el("canvas", { width: 68, height: 28, class: "sample", "data-series": series.name, "aria-hidden": "true" });
  return el("li", {}, sample, series.name);
}

function drawLegend() {
  for (const sample of byId("legend").querySelectorAll("canvas")) {
    const series = SERIES.find(({ name }) => name === sample.dataset.series);
    const pen = sample.getContext("2d");
    pen.setTransform(2, 0, 0, 2, 0, 0);
    pen.clearRect(0, 0, 34, 14);
    strokeLine(pen, series, [[[1, 7], [33, 7]]]);
    drawMark(pen, series, 17, 7);
  }
}

const chartX = (row) => MARGIN.left + ((row - chart.from + 0.5) / (chart.to - chart.from)) * plotWidth();
const plotWidth = () => chart.width - MARGIN.left - MARGIN.right;
const plotBottom = () => chart.height - MARGIN.bottom - ZERO_BAND;

function chartY(value, series) {
  if (value === 0) return plotBottom() + ZERO_BAND / 2 + (series?.zero ?? 0);
  const share = (Math.log10(value) - chart.low) / (chart.high - chart.low);
  return plotBottom() - share * (plotBottom() - MARGIN.top);
}

// Several changes of one frame, as while the page opens, are one drawing.
function requestChart() {
  if (chart.pending) return;
  chart.pending = true;
  requestAnimationFrame(() => { chart.pending = false; drawChart(); });
}

function drawChart() {
  const canvas = byId("canvas");
  const box = byId("chart").getBoundingClientRect();
  if (!total || box.width < 1) return;
  const scale = window.devicePixelRatio || 1;
  palette = new Map();
  Object.assign(chart, { width: box.width, height: box.height });
  canvas.width = Math.round(box.width * scale);
  canvas.height = Math.round(box.height * scale);
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.font = `11px ${getComputedStyle(document.body).fontFamily}`;
  drawAxes(pen);
  drawSegments(pen);
  drawMarkers(pen);
  for (const series of [...SERIES].reverse()) drawSeries(pen, series);
  dimOtherModules(pen);
  drawLegend();
  byId("zoom-reset").hidden = chart.from === 0 && chart.to === total;
}

function drawAxes(pen) {
  const right = chart.width - MARGIN.right;
  pen.fillStyle = themeColour("--zero-band");
  pen.fillRect(MARGIN.left, plotBottom(), plotWidth(), ZERO_BAND);
  pen.textAlign = "right";
  pen.textBaseline = "middle";
  const step = Math.ceil((chart.high - chart.low) / 7);
  for (let decade = chart.low; decade <= chart.high; decade++) {
    const y = chartY(10 ** decade);
    line(pen, MARGIN.left, y, right, y, themeColour("--grid"));
    pen.fillStyle = themeColour("--muted");
    if ((decade - chart.low) % step === 0) pen.fillText(`1e${decade}`, MARGIN.left - 8, y);
  }
  pen.fillText("0", MARGIN.left - 8, chartY(0));
}

function line(pen, x1, y1, x2, y2, colour, width = 1) {
  pen.strokeStyle = colour;
  pen.lineWidth = width;
  pen.setLineDash([]);
  pen.beginPath();
  pen.moveTo(x1, y1);
  pen.lineTo(x2, y2);
  pen.stroke();
}

// Below the axis: runs of rows under the same module, at the first depth that tells runs apart.
function drawSegments(pen) {
  const bottom = chart.height - MARGIN.bottom;
  let free = 0; // labels and separators that would stand closer than this are left out
  for (const { name, from, to } of segments()) {
    const [left, right] = [chartX(from - 0.5), chartX(to - 0.5)];
    const width = pen.measureText(name).width;
    const roomy = width < right - left - 6;
    const start = roomy ? (left + right - width) / 2 : left + 4;
    if (start < free || (!roomy && start + width > chart.width - MARGIN.right)) continue;
    if (from > chart.from) line(pen, left, MARGIN.top, left, bottom + 6, themeColour("--grid"));
    pen.fillStyle = themeColour("--muted");
    pen.textAlign = "left";
    pen.fillText(name, start, bottom + 13);
    free = start + width + 14;
  }
}

const segmentCache = { key: "", runs: [] };

function segments() {
  const key = `${chart.from} ${chart.to} ${chart.width}`;
  if (segmentCache.key !== key) Object.assign(segmentCache, { key, runs: findSegments() });
  return segmentCache.runs;
}

function findSegments() {
  let runs = [];
  for (let depth = 1; depth <= 5 && runs.length < 3; depth++) {
    const deeper = [];
    for (let row = chart.from; row < chart.to; row++) {
      const name = modulePath(row).split(".").slice(0, depth).join(".");
      if (deeper.at(-1)?.name === name) deeper.at(-1).to = row + 1;
      else deeper.push({ name, from: row, to: row + 1 });
    }
    if (deeper.length > plotWidth() / 12 && runs.length) break;
    runs = deeper;
  }
  return runs;
}

function drawMarkers(pen) {
  const bottom = chart.height - MARGIN.bottom;
  const inRange = (row) => row >= chart.from && row < chart.to;
  if (inRange(state.selected)) {
    const x = chartX(state.selected);
    line(pen, x, MARGIN.top, x, bottom, themeColour("--accent"), 1.5);
  }
  pen.textAlign = "center";
  const unmarked = new Set(["ok", "propagated", "introduced"]);
  const spacing = plotWidth() / (chart.to - chart.from);
  for (let row = chart.from; row < chart.to && spacing >= MARK_SPACING; row++) {
    if (unmarked.has(layers.verdict[row])) continue;
    pen.fillStyle = themeColour(`--v-${layers.verdict[row]}`);
    pen.fillText(VERDICTS[layers.verdict[row]].symbol, chartX(row), MARGIN.top - 7);
  }
  for (const { tap } of data.culprits) {
    if (inRange(tapIndex.get(tap) ?? -1)) drawCulpritFlag(pen, chartX(tapIndex.get(tap)), bottom);
  }
}

function drawCulpritFlag(pen, x, bottom) {
  const colour = themeColour("--v-introduced");
  pen.globalAlpha = 0.35;
  line(pen, x, MARGIN.top - 4, x, bottom, colour);
  pen.globalAlpha = 1;
  pen.fillStyle = colour;
  pen.fillText("culprit", Math.min(Math.max(x, MARGIN.left + 20), chart.width - MARGIN.right - 20), 7);
  pen.beginPath();
  pen.moveTo(x - 4, 13);
  pen.lineTo(x + 4, 13);
  pen.lineTo(x, 19);
  pen.fill();
}

function dimOtherModules(pen) {
  if (state.module === ROOT) return;
  pen.globalAlpha = 0.72;
  pen.fillStyle = themeColour("--card");
  for (let row = chart.from; row < chart.to;) {
    const start = row;
    while (row < chart.to && !inModule(modulePath(row), state.module)) row++;
    const left = chartX(start - 0.5);
    if (row > start) pen.fillRect(left, MARGIN.top - 2, chartX(row - 0.5) - left, chart.height - MARGIN.bottom - MARGIN.top + 2);
    else row++;
  }
  pen.globalAlpha = 1;
}
