let haystacks = null; // built by the first search: a large report opens faster without

function haystack(row) {
  haystacks ??= Array.from({ length: total }, (_, r) =>
    [layers.tap[r], layers.module_type[r], layers.kind[r], layers.dtype[r], layers.verdict[r],
      layers.onnx_value[r], layers.reason[r]].join(" ").toLowerCase());
  return haystacks[row];
}

function rowsBeforeVerdict() {
  const words = state.query.toLowerCase().split(/\s+/).filter(Boolean);
  const rows = [];
  for (let row = 0; row < total; row++) {
    if (!inModule(modulePath(row), state.module)) continue;
    if (words.length && !words.every((word) => haystack(row).includes(word))) continue;
    rows.push(row);
  }
  return rows;
}

function sortRows(rows) {
  const { key, descending } = state.sort;
  if (key === "index") return descending ? rows.reverse() : rows;
  const keys = new Array(total);
  for (const row of rows) keys[row] = columnByKey.get(key).value(row);
  const direction = descending ? -1 : 1;
  return rows.sort((a, b) => compareKeys(keys[a], keys[b], direction) || a - b);
}

const collator = new Intl.Collator("en", { numeric: true });

// Rows without a figure come last in both directions.
function compareKeys(a, b, direction) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a === "string") return direction * collator.compare(a, b);
  return direction * (a < b ? -1 : a > b ? 1 : 0);
}

function applyFilters() {
  const candidates = rowsBeforeVerdict();
  renderChips(candidates);
  const wanted = state.verdicts;
  state.visible = sortRows(wanted.size ? candidates.filter((r) => wanted.has(layers.verdict[r])) : candidates);
  const shown = state.visible.length;
  byId("count").textContent = shown === total ? plural(total, "row") : `${plainNumber.format(shown)} of ${plural(total, "row")}`;
  byId("clear").hidden = !isFiltered();
  byId("empty").hidden = shown > 0;
  byId("layers").setAttribute("aria-rowcount", shown + 2);
  byId("scroller").scrollTop = 0;
  renderRows(true);
  requestChart();
}

const isFiltered = () => state.module !== ROOT || state.verdicts.size > 0 || state.query !== "";

function clearFilters() {
  state.verdicts.clear();
  state.query = byId("search").value = "";
  selectModule(ROOT);
}

function renderChips(candidates) {
  const counts = Object.fromEntries(VERDICT_NAMES.map((name) => [name, 0]));
  for (const row of candidates) counts[layers.verdict[row]]++;
  for (const chip of byId("chips").children) {
    const name = chip.dataset.verdict;
    chip.setAttribute("aria-pressed", state.verdicts.has(name));
    chip.lastElementChild.textContent = plainNumber.format(counts[name]);
  }
}

function buildChips() {
  const present = new Set(layers.verdict ?? []);
  for (const name of VERDICT_NAMES.filter((candidate) => present.has(candidate))) {
    const chip = button("", `chip v-${name}`, () => {
      if (!state.verdicts.delete(name)) state.verdicts.add(name);
      applyFilters();
      writeHash();
    }, { "data-verdict": name, title: VERDICTS[name].meaning });
    chip.append(el("span", { class: "symbol", "aria-hidden": "true" }, VERDICTS[name].symbol), name,
      el("span", { class: "chip-count" }));
    byId("chips").append(chip);
  }
}

function selectRow(row, { open = state.open, centre = false, hash = true } = {}) {
  state.selected = row;
  state.open = open;
  renderDetail();
  scrollToRow(row, centre);
  markSelectedRow();
  renderReadout();
  requestChart();
  if (hash) writeHash();
}

// Like selectRow, for a row that the filters may hide.
function revealRow(row, { open = state.open, page = false, hash = true } = {}) {
  if (!state.visible.includes(row)) clearFilters();
  selectRow(row, { open, centre: true, hash });
  if (!page) return;
  byId("explorer").scrollIntoView({ block: "start" });
  byId("layers").focus({ preventScroll: true });
}

function moveSelection(step) {
  const count = state.visible.length;
  if (!count) return;
  const position = state.visible.indexOf(state.selected);
  const next = position < 0 ? (step > 0 ? 0 : count - 1) : Math.min(count - 1, Math.max(0, position + step));
  bringIntoView(byId("scroller"));
  selectRow(state.visible[next]);
}

function bringIntoView(node) {
  const { top, bottom } = node.getBoundingClientRect();
  if (top > window.innerHeight - 120 || bottom < 160) byId("explorer").scrollIntoView({ block: "start" });
}

function closeDetail() {
  if (!state.open) return;
  state.open = false;
  renderDetail();
  byId("layers").focus({ preventScroll: true });
}
