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
  if (fields.has("culprit")) {
    if (revealCulprit(fields.get("culprit"))) return false; // the rest of the page is as without a link
    byId("chart-readout").textContent = `This report has no culprit ${fields.get("culprit")}.`;
    return true;
  }
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
