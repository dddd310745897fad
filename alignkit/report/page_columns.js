const worstFirst = { descendingFirst: true, numeric: true };

// `rank` says which columns give way first where there is little room; those of rank 0 always stay.
const COLUMNS = [
  { key: "index", label: "#", rank: 5, width: 48, numeric: true, value: (r) => r, show: (r) => String(r) },
  { key: "tap", label: "Tap", rank: 0, width: 0, show: (r) => tapName(layers.tap[r]) },
  { key: "verdict", label: "Verdict", rank: 0, width: 116, value: (r) => VERDICT_NAMES.indexOf(layers.verdict[r]),
    show: (r) => verdictBadge(layers.verdict[r]) },
  { key: "introduced_max_abs", label: "Max abs", group: "introduced", rank: 0, width: 84, ...worstFirst },
  { key: "noise_floor", label: "Noise floor", group: "introduced", rank: 4, width: 94, ...worstFirst },
  { key: "noise_ratio", label: "Ratio", group: "introduced", rank: 1, width: 84, ...worstFirst,
    value: noiseRatio, show: (r) => ratio(noiseRatio(r)) },
  { key: "max_abs", label: "Max abs", group: "propagated", rank: 2, width: 84, ...worstFirst },
  { key: "sqnr_db", label: "SQNR dB", group: "propagated", rank: 6, width: 82, numeric: true, format: decibels },
  { key: "cosine", label: "Cosine", group: "propagated", rank: 9, width: 98, numeric: true, format: cosine },
  { key: "ulp_max", label: "Max ULP", group: "propagated", rank: 12, width: 96, ...worstFirst,
    show: (r) => ulps(r, layers.ulp_max[r]) },
  { key: "mismatched", label: "Mismatched", group: "propagated", rank: 10, width: 100, ...worstFirst, format: percent },
  { key: "module_type", label: "Type", rank: 3, width: 124, format: String },
  { key: "kind", label: "Kind", rank: 13, width: 76, format: String },
  { key: "shape", label: "Shape", rank: 7, width: 112, numeric: true, descendingFirst: true,
    value: (r) => layers.shape[r]?.reduce((size, n) => size * n, 1) ?? null,
    show: (r) => shapeText(layers.shape[r]) },
  { key: "dtype", label: "Dtype", rank: 11, width: 80, format: (dtype) => dtype ?? "–" },
  { key: "source", label: "Source", rank: 8, width: 168, show: (r) => sourceName(layers.source[r]) },
].map((column) => ({
  value: (r) => layers[column.key][r],
  show: (r) => (column.format ?? number)(layers[column.key][r]),
  ...column,
}));
const columnByKey = new Map(COLUMNS.map((column) => [column.key, column]));

// `chosen`: the reader's own set of keys; `empty`: those without any figure.
const columns = { chosen: null, shown: [], empty: new Set(), tapWidth: 0 };

const sourceName = (source) => (source === null ? "–" : endFirst(source, source.lastIndexOf("/") + 1));

// Near zero a difference of nothing is many units in the last place: on a row that is right, a large count
// is no alarm.
function ulps(row, value) {
  const harmless = layers.verdict[row] === "ok" && value > 64;
  return harmless ? el("span", { class: "quiet", title: "Units in the last place shrink with the value: "
    + "near zero, large counts are ordinary rounding. This row is judged right by its absolute error." }, number(value))
    : number(value);
}

// Names of taps are read whole where that leaves room for the figures.
function measureColumns() {
  for (const { key } of COLUMNS) if (layers[key]?.every((value) => value === null)) columns.empty.add(key);
  const longest = (layers.tap ?? []).reduce((most, tap) => Math.max(most, tap.length), 0);
  columns.tapWidth = Math.min(Math.max(longest * 7.3 + 24, 150), 400);
}

function fittingColumns(room) {
  const shown = new Set();
  let left = room - Math.min(columns.tapWidth, Math.max(150, room * 0.4));
  for (const { key, rank, width } of [...COLUMNS].sort((a, b) => a.rank - b.rank)) {
    if (rank > 0 && columns.empty.has(key)) continue;
    if (rank > 0 && width > left) break;
    shown.add(key);
    left -= width;
  }
  return shown;
}

// Says whether the columns are others than before.
function chooseColumns() {
  const keys = columns.chosen ?? fittingColumns(byId("scroller").clientWidth);
  const shown = COLUMNS.filter(({ key, rank }) => rank === 0 || keys.has(key));
  const changed = shown.length !== columns.shown.length || shown.some((column, i) => column !== columns.shown[i]);
  columns.shown = shown;
  return changed;
}

function layOutColumns() {
  if (!chooseColumns()) return false;
  buildTableHead();
  markSort();
  renderRows(true);
  for (const box of byId("column-list").querySelectorAll("input")) {
    box.checked = columns.shown.some(({ key }) => key === box.value);
  }
  byId("columns-auto").disabled = columns.chosen === null;
  return true;
}

function setColumns(keys) {
  columns.chosen = keys;
  stored("columns", keys && [...keys].join(" "));
  layOutColumns();
  byId("columns-auto").disabled = keys === null;
}

function buildColumnMenu() {
  const known = stored("columns");
  if (known !== null) columns.chosen = new Set(known.split(" "));
  byId("column-list").append(...COLUMNS.filter(({ rank }) => rank > 0).map(({ key, label, group }) =>
    el("label", {}, el("input", { type: "checkbox", value: key }), group ? `${label}, ${group}` : label === "#" ? "Number" : label)));
  byId("column-list").addEventListener("change", () => {
    setColumns(new Set([...byId("column-list").querySelectorAll("input:checked")].map(({ value }) => value)));
  });
  byId("columns-auto").addEventListener("click", () => setColumns(null));
  const menu = byId("columns-menu");
  document.addEventListener("click", (event) => { if (!menu.contains(event.target)) menu.open = false; });
}
