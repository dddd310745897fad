"use strict";
(() => {
  // Names in a report may contain anything: every text reaches the document through text nodes.
  const data = JSON.parse(document.getElementById("data").textContent);
  const layers = data.layers;
  const total = (layers.tap ?? []).length;

  const ROOT = "(model)";
  const ROW_HEIGHT = 28;
  const OVERSCAN = 10;
  const PRINTED_ROWS = 2000;
  const TREE_PAGE = 200;

  // Worst first: a tree node shows the first of these among its rows.
  const VERDICTS = {
    introduced: { symbol: "✕", meaning: "wrong although everything it read was right" },
    nonfinite: { symbol: "∞", meaning: "NaN or Inf on one side only" },
    shape: { symbol: "□", meaning: "another shape" },
    dtype: { symbol: "≠", meaning: "another type" },
    propagated: { symbol: "↓", meaning: "wrong because of what came before" },
    missing: { symbol: "∅", meaning: "on one side only" },
    skipped: { symbol: "–", meaning: "could not be compared" },
    ok: { symbol: "✓", meaning: "agrees with PyTorch" },
  };
  const VERDICT_NAMES = Object.keys(VERDICTS);

  const CAUSES = {
    exporter: "the exported graph computes something else",
    "trace-constant": "a value was frozen while tracing",
    "train-mode": "exported or run in training mode",
    "export-branch": "the model takes another branch while it is exported",
    runtime: "the graph is right, a kernel computes it wrongly",
    optimizer: "a graph optimisation changes the result",
    precision: "computed at a lower precision",
    input: "the two sides were fed different inputs",
    weights: "the file holds other weights",
    nondeterministic: "the same run gives different answers",
    unknown: "the cause could not be narrowed down",
  };

  const state = {
    selected: -1,
    open: false,
    module: ROOT,
    verdicts: new Set(),
    query: "",
    sort: { key: "index", descending: false },
    visible: [], // row numbers that pass the filters, in table order
  };

  // ---------------------------------------------------------------- small helpers

  const byId = (id) => document.getElementById(id);

  function el(tag, attributes, ...children) {
    const node = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes ?? {})) {
      if (value === true) node.setAttribute(name, "");
      else if (value !== null && value !== undefined && value !== false) node.setAttribute(name, value);
    }
    node.append(...children.filter((child) => child !== null));
    return node;
  }

  function button(label, className, action, attributes) {
    const node = el("button", { type: "button", class: className, ...attributes }, label);
    node.addEventListener("click", action);
    return node;
  }

  const plainNumber = new Intl.NumberFormat("en-US", { maximumFractionDigits: 8 });

  function number(value, digits = 3) {
    if (value === null || value === undefined) return "–";
    if (value === Infinity) return "∞";
    const size = Math.abs(value);
    if (Number.isInteger(value) && size < 1e7) return plainNumber.format(value);
    if (size >= 1e-3 && size < 1e6) return plainNumber.format(Number(value.toPrecision(digits)));
    return value.toExponential(digits - 1).replace("e+", "e");
  }

  const decibels = (value) => (value === null ? "–" : value.toFixed(1));
  const ratio = (value) => (value === null ? "–" : `${number(value)}×`);
  const shapeText = (shape) => (shape === null ? "–" : shape.length ? shape.join("×") : "scalar");

  // Healthy cosines differ from 1 behind the digits that one would print.
  function cosine(value) {
    if (value === null) return "–";
    if (Math.abs(1 - value) < 1e-15) return "1";
    return value > 0.999 && value < 1 ? `1 − ${(1 - value).toExponential(1)}` : value.toFixed(4);
  }

  function percent(share) {
    if (share === null) return "–";
    if (share === 0) return "0 %";
    return share < 1e-3 ? `${(share * 100).toExponential(1)} %` : `${(share * 100).toFixed(1)} %`;
  }

  function settingText(value) {
    if (Array.isArray(value)) return value.map(settingText).join(", ");
    return typeof value === "object" && value !== null ? JSON.stringify(value) : String(value);
  }

  const plural = (count, noun) => `${plainNumber.format(count)} ${noun}${count === 1 ? "" : "s"}`;

  // A ratio to a noise floor of zero is infinite, which JSON cannot hold.
  function noiseRatio(row) {
    const known = layers.noise_ratio[row];
    if (known !== null) return known;
    return layers.noise_floor[row] === 0 && layers.introduced_max_abs[row] > 0 ? Infinity : null;
  }

  function verdictBadge(name) {
    return el("span", { class: `badge v-${name}`, title: VERDICTS[name].meaning },
      el("span", { "aria-hidden": "true", class: "symbol" }, VERDICTS[name].symbol), name);
  }

  // The part of a tap's name that tells it from its neighbours is its end: the front gives way first.
  function tapName(name, className = "tap") {
    const path = name.split("#", 1)[0];
    const cut = path.lastIndexOf(".") + 1;
    return el("span", { class: className, title: name },
      el("span", { class: "front" }, name.slice(0, cut)), el("span", { class: "end" }, name.slice(cut)));
  }

  function pairs(list, entries) {
    list.replaceChildren(...entries.flatMap(([term, value]) =>
      [el("dt", {}, term), el("dd", {}, value instanceof Node ? value : String(value))]));
    return list;
  }

  function copyButton(text, what) {
    const node = button("Copy", "ghost small", async () => {
      node.textContent = (await copied(text)) ? "Copied" : "Press Ctrl+C";
      setTimeout(() => { node.textContent = "Copy"; }, 1500);
    }, { "aria-label": `Copy ${what}` });
    return node;
  }

  async function copied(text) {
    try {
      await navigator.clipboard.writeText(text);
      return true;
    } catch {
      return copiedBySelection(text); // no clipboard API on this page, or not allowed
    }
  }

  function copiedBySelection(text) {
    const field = el("textarea", { readonly: true, class: "offscreen" });
    field.value = text;
    document.body.append(field);
    field.select();
    const done = document.execCommand("copy");
    field.remove();
    return done;
  }

  const tapIndex = new Map();
  for (let row = total - 1; row >= 0; row--) tapIndex.set(layers.tap[row], row);
  const modulePath = (row) => layers.module[row] || ROOT;
  const inModule = (path, ancestor) => ancestor === ROOT || path === ancestor || path.startsWith(`${ancestor}.`);

  // ---------------------------------------------------------------- verdict banner and culprits

  function renderVerdict() {
    byId("verdict").classList.add(data.aligned ? "good" : "bad");
    byId("verdict-mark").textContent = data.aligned ? "✓" : "✕";
    byId("verdict-lead").replaceChildren(...verdictLead());
    const setting = (...names) => names.map((name) => data.settings[name]).find((value) => value !== undefined);
    const facts = [
      ["Compared", plural(data.coverage.compared, "tap")],
      ["Not compared", plural(data.coverage.not_compared, "tap")],
      ["Exporter", setting("exporter")],
      ["Provider", setting("providers", "provider")],
      ["Optimisation", setting("optimization", "optimisation")],
    ].filter(([, value]) => value !== undefined && value !== null);
    byId("facts").replaceChildren(...facts.map(([term, value]) =>
      el("div", {}, el("dt", {}, term), el("dd", {}, settingText(value)))));
  }

  function verdictLead() {
    if (data.aligned) return ["Every compared tap agrees with PyTorch."];
    const [first, ...others] = data.culprits;
    if (!first) return ["The deployed model disagrees with PyTorch; no single layer could be blamed."];
    const more = others.length ? `, and ${plural(others.length, "more culprit")}` : "";
    return ["The error enters at ", el("strong", { class: "mono" }, first.module || ROOT),
      ` (${first.op || "no op known"})${more}: ${CAUSES[first.cause] ?? first.cause}.`];
  }

  function renderCulprits() {
    if (!data.culprits.length) return;
    byId("culprits").hidden = false;
    if (data.culprits.length === 1) byId("culprits-title").textContent = "Culprit";
    byId("culprit-list").append(...data.culprits.map(culpritCard));
  }

  function culpritCard(culprit, index) {
    const row = tapIndex.get(culprit.tap);
    const summary = el("summary", {},
      el("span", { class: "culprit-name mono" }, culprit.module || ROOT),
      el("span", { class: "tag mono" }, culprit.op || "–"),
      el("span", { class: "badge v-introduced" }, culprit.cause),
      el("span", { class: `confidence c-${culprit.confidence}` }, `${culprit.confidence} confidence`),
      el("span", { class: "culprit-figure" }, culpritFigure(row)));
    return el("details", { class: "card culprit", open: index === 0 }, summary,
      el("div", { class: "culprit-body" }, culpritCase(culprit), culpritFacts(culprit, row)));
  }

  function culpritFigure(row) {
    if (row === undefined || layers.introduced_max_abs[row] === null) return "";
    const times = noiseRatio(row);
    const beyond = times === null ? "" : `, ${ratio(times)} its noise floor`;
    return `introduces ${number(layers.introduced_max_abs[row])}${beyond}`;
  }

  function culpritCase(culprit) {
    const evidence = culprit.evidence.map((line) => el("li", {}, line));
    return el("div", { class: "culprit-case" },
      el("h3", {}, "Evidence"), el("ul", {}, ...evidence),
      culprit.advice ? el("h3", {}, "What to do") : null,
      culprit.advice ? el("p", {}, culprit.advice) : null);
  }

  function culpritFacts(culprit, row) {
    const entries = [["Tap", el("span", { class: "mono" }, culprit.tap)]];
    if (culprit.onnx_nodes.length) {
      const nodes = culprit.onnx_nodes.map((node) => el("span", { class: "mono line" }, node));
      entries.push(["ONNX nodes", el("span", {}, ...nodes)]);
    }
    if (culprit.source) entries.push(["Source", withCopy(culprit.source, "the source line")]);
    if (culprit.repro) entries.push(["Reproduce", withCopy(reproCommand(culprit.repro), "the repro command")]);
    const list = pairs(el("dl", { class: "pairs" }), entries);
    const show = row === undefined ? null
      : button("Show in layers", "primary", () => revealRow(row, { open: true, page: true }));
    return el("div", { class: "culprit-facts" }, list, show);
  }

  const withCopy = (text, what) => el("span", { class: "copyable" }, el("code", {}, text), copyButton(text, what));

  function reproCommand(path) {
    const quoted = /^[\w./+:-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`;
    return path.endsWith(".py") ? `python ${quoted}` : path;
  }

  // ---------------------------------------------------------------- filters and order

  const worstFirst = { descendingFirst: true, numeric: true };
  const COLUMNS = [
    { key: "index", label: "#", width: 52, numeric: true, value: (r) => r, show: (r) => String(r) },
    { key: "tap", label: "Tap", width: 206, show: (r) => tapName(layers.tap[r]) },
    { key: "verdict", label: "Verdict", width: 122, value: (r) => VERDICT_NAMES.indexOf(layers.verdict[r]),
      show: (r) => verdictBadge(layers.verdict[r]) },
    { key: "introduced_max_abs", label: "Max abs", group: "introduced", width: 88, ...worstFirst },
    { key: "noise_floor", label: "Noise floor", group: "introduced", width: 96, ...worstFirst },
    { key: "noise_ratio", label: "Ratio", group: "introduced", width: 84, ...worstFirst,
      value: noiseRatio, show: (r) => ratio(noiseRatio(r)) },
    { key: "max_abs", label: "Max abs", group: "propagated", width: 88, ...worstFirst },
    { key: "sqnr_db", label: "SQNR dB", group: "propagated", width: 82, numeric: true, format: decibels },
    { key: "cosine", label: "Cosine", group: "propagated", width: 98, numeric: true, format: cosine },
    { key: "ulp_max", label: "Max ULP", group: "propagated", width: 88, ...worstFirst },
    { key: "mismatched", label: "Mismatched", group: "propagated", width: 100, ...worstFirst, format: percent },
    { key: "module_type", label: "Type", width: 124, format: String },
    { key: "kind", label: "Kind", width: 76, format: String },
    { key: "shape", label: "Shape", width: 120, numeric: true, descendingFirst: true,
      value: (r) => layers.shape[r]?.reduce((size, n) => size * n, 1) ?? null,
      show: (r) => shapeText(layers.shape[r]) },
    { key: "dtype", label: "Dtype", width: 84, format: (dtype) => dtype ?? "–" },
  ].map((column) => ({
    value: (r) => layers[column.key][r],
    show: (r) => (column.format ?? number)(layers[column.key][r]),
    ...column,
  }));
  const columnByKey = new Map(COLUMNS.map((column) => [column.key, column]));

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

  // ---------------------------------------------------------------- table

  const rendered = { first: -1, last: -1, printing: false };

  function buildTableHead() {
    const width = COLUMNS.reduce((sum, column) => sum + column.width, 0);
    byId("layers").style.minWidth = `${width}px`;
    byId("columns").append(...COLUMNS.map((column) => {
      const col = el("col");
      if (column.key !== "tap") col.style.width = `${column.width}px`; // the tap column takes what is left
      return col;
    }));
    byId("spacer-top").colSpan = byId("spacer-bottom").colSpan = COLUMNS.length;
    byId("layers-head").append(el("tr", { class: "groups", "aria-rowindex": 1 }, ...groupCells()),
      el("tr", { class: "labels", "aria-rowindex": 2 }, ...COLUMNS.map(headCell)));
  }

  function groupCells() {
    const cells = [];
    const titles = { introduced: "Introduced by this layer", propagated: "Propagated up to here" };
    for (const column of COLUMNS) {
      const previous = cells.at(-1);
      if (previous && previous.dataset.group === (column.group ?? "") && column.key !== "verdict") previous.colSpan++;
      else cells.push(el("th", { "data-group": column.group ?? "", scope: "colgroup",
        class: `c-${column.key} ${column.group ? "grouped" : ""}` }, titles[column.group] ?? ""));
    }
    return cells;
  }

  function headCell(column) {
    const label = button(column.label, "sort", () => {
      const again = state.sort.key === column.key;
      state.sort = { key: column.key, descending: again ? !state.sort.descending : Boolean(column.descendingFirst) };
      markSort();
      applyFilters();
      writeHash();
    });
    const name = column.group ? `${column.label}, ${column.group}` : column.label;
    label.setAttribute("aria-label", name);
    return el("th", { scope: "col", "data-key": column.key, class: `c-${column.key} ${column.numeric ? "num" : ""}` }, label);
  }

  function markSort() {
    for (const cell of byId("layers-head").querySelectorAll(".labels th")) {
      const active = cell.dataset.key === state.sort.key;
      if (active) cell.setAttribute("aria-sort", state.sort.descending ? "descending" : "ascending");
      else cell.removeAttribute("aria-sort");
    }
  }

  function renderRows(force = false) {
    const scroller = byId("scroller");
    const count = state.visible.length;
    let first = Math.max(0, Math.floor(scroller.scrollTop / ROW_HEIGHT) - OVERSCAN);
    let last = Math.min(count, Math.ceil((scroller.scrollTop + scroller.clientHeight) / ROW_HEIGHT) + OVERSCAN);
    if (rendered.printing) [first, last] = [0, Math.min(count, PRINTED_ROWS)];
    if (!force && first === rendered.first && last === rendered.last) return;
    Object.assign(rendered, { first, last });
    byId("spacer-top").style.height = `${first * ROW_HEIGHT}px`;
    byId("spacer-bottom").style.height = `${rendered.printing ? 0 : (count - last) * ROW_HEIGHT}px`;
    byId("layers-body").replaceChildren(...state.visible.slice(first, last).map((row, i) => tableRow(row, first + i)));
    markSelectedRow();
  }

  function tableRow(row, position) {
    const cells = COLUMNS.map((column) =>
      el("td", { class: `c-${column.key} ${column.numeric ? "num" : ""}` }, column.show(row)));
    return el("tr", { id: `row-${row}`, class: position % 2 ? "odd" : null, "data-row": row,
      "data-verdict": layers.verdict[row], "aria-rowindex": position + 3 }, ...cells);
  }

  function markSelectedRow() {
    for (const node of byId("layers-body").children) {
      node.setAttribute("aria-selected", Number(node.dataset.row) === state.selected);
    }
    const inDocument = byId(`row-${state.selected}`) !== null;
    if (inDocument) byId("layers").setAttribute("aria-activedescendant", `row-${state.selected}`);
    else byId("layers").removeAttribute("aria-activedescendant");
  }

  function scrollToRow(row, centre) {
    const position = state.visible.indexOf(row);
    if (position < 0) return;
    const scroller = byId("scroller");
    const room = scroller.clientHeight - byId("layers-head").offsetHeight;
    const top = position * ROW_HEIGHT;
    if (centre) scroller.scrollTop = top - (room - ROW_HEIGHT) / 2;
    else if (top < scroller.scrollTop) scroller.scrollTop = top;
    else if (top + ROW_HEIGHT > scroller.scrollTop + room) scroller.scrollTop = top + ROW_HEIGHT - room;
    renderRows();
  }

  // ---------------------------------------------------------------- selection

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

  // ---------------------------------------------------------------- detail panel

  const FIGURES = [
    ["Max abs error", "max_abs", number],
    ["Noise floor", null, null],
    ["Ratio to noise", null, null],
    ["Mean abs error", "mean_abs", number],
    ["RMSE", "rmse", number],
    ["MSE", "mse", number],
    ["Max relative error", "max_rel", number],
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
    blocks.push(...histogramBlock(row));
    panel.replaceChildren(...blocks);
    panel.scrollTop = 0;
    return undefined;
  }

  function detailHead(row) {
    const link = `${location.href.split("#", 1)[0]}#tap=${encodeURIComponent(layers.tap[row])}`;
    const copy = copyButton(link, "a link to this tap");
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
    const mono = (text) => el("span", { class: "mono" }, text);
    return pairs(el("dl", { class: "pairs" }), [
      ["Module", button(modulePath(row), "link mono", () => selectModule(modulePath(row)), { title: "Filter by this module" })],
      ["Type, kind", `${layers.module_type[row] || "–"}, ${layers.kind[row]}`],
      ["Tensor", mono(`${shapeText(layers.shape[row])} ${layers.dtype[row] ?? ""}`)],
      ["ONNX value", mono(layers.onnx_value[row] ?? "–")],
    ]);
  }

  function figuresTable(row) {
    const special = {
      "Noise floor": [number(layers.propagated_noise[row]), number(layers.noise_floor[row])],
      "Ratio to noise": [propagatedRatio(row), ratio(noiseRatio(row))],
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

  // ---------------------------------------------------------------- module tree

  const modules = new Map([[ROOT, moduleNode(ROOT, ROOT)]]);

  function moduleNode(path, name) {
    return { path, name, children: [], count: 0, worst: VERDICT_NAMES.length - 1, item: null, expanded: false };
  }

  function ensureModule(path) {
    const known = modules.get(path);
    if (known) return known;
    const cut = path.lastIndexOf(".");
    const node = moduleNode(path, path.slice(cut + 1));
    modules.set(path, node);
    ensureModule(cut < 0 ? ROOT : path.slice(0, cut)).children.push(node);
    return node;
  }

  function ancestors(path) {
    const chain = [];
    for (let rest = path; rest !== ROOT;) {
      chain.unshift(modules.get(rest));
      const cut = rest.lastIndexOf(".");
      rest = cut < 0 ? ROOT : rest.slice(0, cut);
    }
    return [modules.get(ROOT), ...chain];
  }

  function buildTree() {
    for (let row = 0; row < total; row++) {
      ensureModule(modulePath(row));
      const rank = VERDICT_NAMES.indexOf(layers.verdict[row]);
      for (const node of ancestors(modulePath(row))) {
        node.count++;
        node.worst = Math.min(node.worst, rank);
      }
    }
    const root = modules.get(ROOT);
    byId("tree").append(treeItem(root, 1));
    root.item.tabIndex = 0;
    setExpanded(root, true);
  }

  function treeItem(node, level) {
    const worst = VERDICT_NAMES[node.worst];
    const leaf = node.children.length === 0;
    const toggle = el("span", { class: "toggle", "aria-hidden": "true" }, leaf ? "" : "▸");
    const line = el("div", { class: "node" }, toggle,
      el("span", { class: `symbol v-${worst}`, title: `worst: ${worst}`, "aria-hidden": "true" }, VERDICTS[worst].symbol),
      el("span", { class: "node-name mono", title: node.path }, node.name),
      el("span", { class: "node-count", "aria-hidden": "true" }, plainNumber.format(node.count)));
    line.style.setProperty("--level", level);
    node.item = el("div", { role: "treeitem", tabindex: -1, "aria-level": level, "aria-selected": false,
      "aria-expanded": leaf ? null : "false", "aria-label": `${node.name}, worst verdict ${worst}, ${plural(node.count, "row")}` }, line);
    node.item.moduleNode = node;
    line.addEventListener("click", (event) => {
      if (event.target === toggle && !leaf) setExpanded(node, !node.expanded);
      else selectModule(node.path);
      focusTreeItem(node);
    });
    return node.item;
  }

  function setExpanded(node, expanded) {
    if (!node.children.length) return;
    node.expanded = expanded;
    node.item.setAttribute("aria-expanded", expanded);
    let group = node.item.querySelector(":scope > [role=group]");
    if (!group) {
      group = el("div", { role: "group" });
      node.item.append(group);
      showChildren(node, 0);
    }
    group.hidden = !expanded;
  }

  // A list of thousands of modules is leafed through, a page at a time.
  function showChildren(node, start) {
    const group = node.item.querySelector(":scope > [role=group]");
    const level = Number(node.item.getAttribute("aria-level")) + 1;
    const end = Math.min(start + TREE_PAGE, node.children.length);
    const items = node.children.slice(start, end).map((child) => child.item ?? treeItem(child, level));
    const leaf = (count, word, to) => (count > 0
      ? [button(`${plainNumber.format(count)} ${word}`, "link more", () => showChildren(node, to))] : []);
    group.replaceChildren(...leaf(start, "earlier", start - TREE_PAGE), ...items,
      ...leaf(node.children.length - end, "more", end));
    if (!byId("tree").querySelector("[tabindex='0']")) node.item.tabIndex = 0;
  }

  function showModule(path) {
    const chain = ancestors(path);
    for (let i = 1; i < chain.length; i++) {
      const [parent, node] = [chain[i - 1], chain[i]];
      setExpanded(parent, true);
      if (node.item?.isConnected) continue;
      showChildren(parent, Math.floor(parent.children.indexOf(node) / TREE_PAGE) * TREE_PAGE);
    }
  }

  function selectModule(path) {
    modules.get(state.module)?.item?.setAttribute("aria-selected", false);
    state.module = path;
    showModule(path);
    const { item } = modules.get(path);
    item.setAttribute("aria-selected", true);
    item.firstElementChild.scrollIntoView({ block: "nearest" });
    applyFilters();
    writeHash();
  }

  function focusTreeItem(node) {
    byId("tree").querySelector("[tabindex='0']")?.setAttribute("tabindex", -1);
    node.item.tabIndex = 0;
    node.item.focus();
  }

  function onTreeKey(event) {
    const item = event.target.closest("[role=treeitem]");
    if (!item || event.ctrlKey || event.metaKey || event.altKey) return;
    const items = [...byId("tree").querySelectorAll("[role=treeitem]")].filter((node) => !node.closest("[hidden]"));
    const node = item.moduleNode;
    const at = items.indexOf(item);
    const moves = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: items.length - 1 };
    if (event.key in moves) {
      const target = items[moves[event.key]];
      if (target) focusTreeItem(target.moduleNode);
    } else if (event.key === "ArrowRight") {
      if (node.expanded) focusTreeItem(item.querySelector("[role=treeitem]").moduleNode);
      else setExpanded(node, true);
    } else if (event.key === "ArrowLeft") {
      const parent = item.parentElement.closest("[role=treeitem]");
      if (node.expanded) setExpanded(node, false);
      else if (parent) focusTreeItem(parent.moduleNode);
    } else if (event.key === "Enter" || event.key === " ") selectModule(node.path);
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  // ---------------------------------------------------------------- chart

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

  // A figure that is missing breaks the line; a zero lies in its band and does not pull the line down.
  function pointStrokes(values) {
    const strokes = [[]];
    for (let row = chart.from; row < chart.to; row++) {
      if (values[row] === null) strokes.push([]);
      else if (values[row] > 0) strokes.at(-1).push([chartX(row), chartY(values[row])]);
    }
    return strokes;
  }

  // More rows than pixels: the line follows each pixel's largest value, so that no peak is lost.
  function bucketStrokes(pen, series, values) {
    const buckets = Math.floor(plotWidth());
    const perBucket = (chart.to - chart.from) / buckets;
    const stroke = [];
    pen.globalAlpha = 0.4;
    for (let bucket = 0; bucket < buckets; bucket++) {
      let [low, high] = [Infinity, 0];
      const end = Math.min(chart.to, chart.from + Math.ceil((bucket + 1) * perBucket));
      for (let row = chart.from + Math.floor(bucket * perBucket); row < end; row++) {
        if (values[row] > 0) [low, high] = [Math.min(low, values[row]), Math.max(high, values[row])];
      }
      if (high === 0) continue;
      const x = MARGIN.left + bucket + 0.5;
      stroke.push([x, chartY(high)]);
      if (low < high) line(pen, x, chartY(low), x, chartY(high), themeColour(series.colour));
    }
    pen.globalAlpha = 1;
    return [stroke];
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

  // ---------------------------------------------------------------- outputs, coverage, timings, notes

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
    const shown = ["culprits", "chart-section", "explorer", "outputs", "coverage"].map(byId).filter((section) => !section.hidden);
    const names = { culprits: "Culprits", "chart-section": "Chart", explorer: "Layers", outputs: "Outputs", coverage: "Coverage" };
    byId("sections").append(...shown.map((section) =>
      button(names[section.id], "nav", () => section.scrollIntoView({ block: "start" }))));
  }

  // ---------------------------------------------------------------- deep links

  function writeHash() {
    const parts = [];
    const add = (name, value) => value && parts.push(`${name}=${encodeURIComponent(value)}`);
    // A link to a row that its own filters hide would undo these filters when it is followed.
    add("tap", state.visible.includes(state.selected) ? layers.tap[state.selected] : "");
    add("module", state.module === ROOT ? "" : state.module);
    add("verdict", [...state.verdicts].join(","));
    add("q", state.query);
    add("sort", state.sort.key === "index" && !state.sort.descending ? "" : `${state.sort.descending ? "-" : ""}${state.sort.key}`);
    history.replaceState(null, "", `#${parts.join("&")}`);
  }

  function parseHash() {
    const fields = new Map();
    for (const part of location.hash.slice(1).split("&")) {
      const cut = part.indexOf("=");
      if (cut > 0) fields.set(part.slice(0, cut), decoded(part.slice(cut + 1)));
    }
    return fields;
  }

  function decoded(text) {
    try {
      return decodeURIComponent(text);
    } catch {
      return text; // written by hand, with a bare per cent sign
    }
  }

  function followHash() {
    const fields = parseHash();
    if (!fields.size) return false;
    state.verdicts = new Set((fields.get("verdict") ?? "").split(",").filter((name) => name in VERDICTS));
    state.query = byId("search").value = fields.get("q") ?? "";
    const sort = fields.get("sort") ?? "index";
    const key = sort.replace(/^-/, "");
    state.sort = columnByKey.has(key) ? { key, descending: sort.startsWith("-") } : { key: "index", descending: false };
    markSort();
    const row = tapIndex.get(fields.get("tap"));
    const module = fields.get("module");
    selectModule(modules.has(module) ? module : ROOT);
    if (row !== undefined) revealRow(row, { open: true, page: true });
    else if (fields.has("tap")) byId("chart-readout").textContent = `This report has no tap named ${fields.get("tap")}.`;
    return true;
  }

  // ---------------------------------------------------------------- keys, theme, start

  const ACTIONS = {
    "/": () => byId("search").focus(),
    j: () => moveSelection(1),
    k: () => moveSelection(-1),
    "?": () => byId("keys").showModal(),
    Escape: closeDetail,
  };

  // Elsewhere the arrow keys scroll the page.
  const TABLE_ACTIONS = {
    ArrowDown: () => moveSelection(1),
    ArrowUp: () => moveSelection(-1),
    Home: () => moveSelection(-total),
    End: () => moveSelection(total),
  };

  function onKey(event) {
    if (event.ctrlKey || event.metaKey || event.altKey || byId("keys").open) return;
    const target = event.target;
    if (target === byId("search")) return onSearchKey(event);
    if (event.key === "Enter") {
      if (target.closest("button, summary, a") || state.selected < 0) return;
      selectRow(state.selected, { open: true });
    } else if (event.key in TABLE_ACTIONS && target.closest("#layers, #detail")) TABLE_ACTIONS[event.key]();
    else if (event.key in ACTIONS) ACTIONS[event.key]();
    else return;
    event.preventDefault();
  }

  function onSearchKey(event) {
    if (event.key !== "Escape" && event.key !== "Enter") return;
    event.preventDefault();
    byId("layers").focus({ preventScroll: true });
    if (event.key === "Enter" && state.visible.length) selectRow(state.visible[0]);
  }

  const prefersDark = window.matchMedia("(prefers-color-scheme: dark)");
  const currentTheme = () => document.documentElement.dataset.theme ?? (prefersDark.matches ? "dark" : "light");

  // Storage is refused in some frames and private windows; the theme then lasts as long as the page.
  function storedTheme(theme) {
    try {
      if (theme) localStorage.setItem("alignkit-theme", theme);
      return localStorage.getItem("alignkit-theme");
    } catch {
      return null;
    }
  }

  function setTheme(theme) {
    if (theme) document.documentElement.dataset.theme = theme;
    const other = currentTheme() === "dark" ? "Light" : "Dark";
    byId("theme-button").textContent = other;
    byId("theme-button").setAttribute("aria-label", `Switch to ${other.toLowerCase()} mode`);
    requestChart();
  }

  function listen() {
    document.addEventListener("keydown", onKey);
    byId("tree").addEventListener("keydown", onTreeKey);
    byId("search").addEventListener("input", (event) => {
      state.query = event.target.value;
      applyFilters();
      writeHash();
    });
    byId("clear").addEventListener("click", clearFilters);
    byId("layers-body").addEventListener("click", (event) => {
      const row = event.target.closest("tr");
      if (row && getSelection().isCollapsed) selectRow(Number(row.dataset.row), { open: true });
    });
    let pending = false;
    byId("scroller").addEventListener("scroll", () => {
      if (pending) return;
      pending = true;
      requestAnimationFrame(() => { pending = false; renderRows(); });
    });
    new ResizeObserver(() => renderRows()).observe(byId("scroller"));
    byId("keys-button").addEventListener("click", () => byId("keys").showModal());
    byId("theme-button").addEventListener("click", () => {
      setTheme(currentTheme() === "dark" ? "light" : "dark");
      storedTheme(currentTheme());
    });
    prefersDark.addEventListener("change", () => setTheme(null));
    window.addEventListener("hashchange", followHash);
    window.addEventListener("beforeprint", () => { rendered.printing = true; renderRows(true); });
    window.addEventListener("afterprint", () => { rendered.printing = false; renderRows(true); });
  }

  function start() {
    setTheme(storedTheme());
    renderVerdict();
    renderCulprits();
    buildChips();
    buildTableHead();
    markSort();
    buildTree();
    byId("panes").style.setProperty("--rows-height", `${total * ROW_HEIGHT + 76}px`);
    renderOutputs();
    renderCoverage();
    renderTimings();
    renderNotes();
    renderAbout();
    buildSections();
    listen();
    buildChart();
    modules.get(ROOT).item.setAttribute("aria-selected", true);
    applyFilters();
    if (followHash()) return;
    const first = tapIndex.get(data.culprits[0]?.tap);
    if (first !== undefined) {
      showModule(modulePath(first));
      selectRow(first, { centre: true, hash: false });
    }
  }

  start();
})();
