const TREE_PAGE = 200;

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
