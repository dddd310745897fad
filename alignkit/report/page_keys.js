const ACTIONS = {
  "/": () => byId("search").focus(),
  j: () => moveSelection(1),
  k: () => moveSelection(-1),
  "?": () => byId("keys").showModal(),
  Escape: () => { if (byId("columns-menu").open) byId("columns-menu").open = false; else closeDetail(); },
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
    requestAnimationFrame(() => { pending = false; renderRows(); markOverflow(); });
  });
  new ResizeObserver(() => {
    if (!layOutColumns()) renderRows();
    markOverflow();
  }).observe(byId("scroller"));
  new ResizeObserver(markOverflow).observe(byId("layers"));
  byId("keys-button").addEventListener("click", () => byId("keys").showModal());
  byId("theme-button").addEventListener("click", () => {
    setTheme(currentTheme() === "dark" ? "light" : "dark");
    stored("theme", currentTheme());
  });
  prefersDark.addEventListener("change", () => setTheme(null));
  window.addEventListener("hashchange", followHash);
  window.addEventListener("beforeprint", () => { rendered.printing = true; renderRows(true); });
  window.addEventListener("afterprint", () => { rendered.printing = false; renderRows(true); });
}

function start() {
  setTheme(stored("theme"));
  renderVerdict();
  renderCulprits();
  buildChips();
  measureColumns();
  buildColumnMenu();
  buildTree();
  byId("panes").style.setProperty("--rows-height", `${total * ROW_HEIGHT + 76}px`);
  renderCandidates();
  renderSamples();
  renderSensitivity();
  renderOutputs();
  renderCoverage();
  renderTimings();
  renderNotes();
  renderAbout();
  buildSections();
  listen();
  buildChart();
  layOutColumns();
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
