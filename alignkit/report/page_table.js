const ROW_HEIGHT = 28;
const OVERSCAN = 10;
const PRINTED_ROWS = 2000;

const rendered = { first: -1, last: -1, printing: false };

function buildTableHead() {
  const { shown, chosen, tapWidth } = columns;
  const width = shown.reduce((sum, column) => sum + column.width, chosen ? tapWidth : 150);
  byId("layers").style.minWidth = `${width}px`;
  byId("layers").style.setProperty("--before-tap", `${shown[0].key === "index" ? shown[0].width : 0}px`);
  byId("columns").replaceChildren(...shown.map((column) => {
    const col = el("col");
    if (column.key !== "tap") col.style.width = `${column.width}px`; // the tap column takes what is left
    return col;
  }));
  byId("spacer-top").colSpan = byId("spacer-bottom").colSpan = shown.length;
  byId("layers-head").replaceChildren(el("tr", { class: "groups", "aria-rowindex": 1 }, ...groupCells()),
    el("tr", { class: "labels", "aria-rowindex": 2 }, ...shown.map(headCell)));
}

function groupCells() {
  const cells = [];
  // A lone column under a long title would cut it.
  const alone = (group) => columns.shown.filter((column) => column.group === group).length < 2;
  const titles = { introduced: alone("introduced") ? "Introduced" : "Introduced by this layer",
    propagated: alone("propagated") ? "Propagated" : "Propagated up to here" };
  for (const column of columns.shown) {
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
  const cells = columns.shown.map((column) =>
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

// Shadows at the edges behind which there is more.
function markOverflow() {
  const { scrollLeft, scrollWidth, offsetWidth } = byId("scroller"); // offsetWidth: with the scrollbar's gutter
  byId("frame").classList.toggle("more-left", scrollLeft > 1);
  byId("frame").classList.toggle("more-right", scrollLeft + offsetWidth < scrollWidth - 1);
}
