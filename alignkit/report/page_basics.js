// Names in a report may contain anything: every text reaches the document through text nodes.
const data = JSON.parse(document.getElementById("data").textContent);
const layers = data.layers;
const total = (layers.tap ?? []).length;

const ROOT = "(model)";

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

const state = {
  selected: -1,
  open: false,
  module: ROOT,
  verdicts: new Set(),
  query: "",
  sort: { key: "index", descending: false },
  visible: [], // row numbers that pass the filters, in table order
};

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

// Healthy cosines differ from 1 behind the digits that one would print; what is left below 1e-12 is
// rounding of the cosine itself.
function cosine(value) {
  if (value === null) return "–";
  if (Math.abs(1 - value) < 1e-12) return "1";
  return value > 0.999 && value < 1 ? `1 − ${(1 - value).toExponential(1)}` : value.toFixed(4);
}

function percent(share) {
  if (share === null) return "–";
  if (share === 0) return "0 %";
  return `${share < 1e-3 ? number(share * 100, 2) : (share * 100).toFixed(1)} %`;
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

// The part of a name that tells it from its neighbours is its end: the front gives way first.
function endFirst(text, cut, className = "tap") {
  return el("span", { class: className, title: text },
    el("span", { class: "front" }, text.slice(0, cut)), el("span", { class: "end" }, text.slice(cut)));
}

const tapName = (name) => endFirst(name, name.split("#", 1)[0].lastIndexOf(".") + 1);

function pairs(list, entries) {
  list.replaceChildren(...entries.flatMap(([term, value]) =>
    [el("dt", {}, term), el("dd", {}, value instanceof Node ? value : String(value))]));
  return list;
}

const mono = (text) => el("span", { class: "mono" }, text);

// Where the page may not write to the clipboard, `shown` (what the reader sees of the text) is selected.
function copyButton(text, what, shown = null) {
  const node = button("Copy", "ghost small", async () => {
    const done = await copied(text);
    if (!done && shown) getSelection().selectAllChildren(shown);
    const answer = done ? "Copied" : shown ? "Press Ctrl+C" : "Not allowed";
    node.textContent = answer;
    byId("announcer").textContent = `${answer}: ${what}`;
    setTimeout(() => { node.textContent = "Copy"; }, 1800);
  }, { "aria-label": `Copy ${what}` });
  return node;
}

function withCopy(text, what) {
  const shown = el("code", {}, text);
  return el("span", { class: "copyable" }, shown, copyButton(text, what, shown));
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

// Storage is refused in some frames and private windows; a choice then lasts as long as the page.
function stored(name, value) {
  try {
    if (value === null) localStorage.removeItem(`alignkit-${name}`);
    else if (value !== undefined) localStorage.setItem(`alignkit-${name}`, value);
    return localStorage.getItem(`alignkit-${name}`);
  } catch {
    return null;
  }
}

const pageLink = (name, value) => `${location.href.split("#", 1)[0]}#${name}=${encodeURIComponent(value)}`;

const tapIndex = new Map();
for (let row = total - 1; row >= 0; row--) tapIndex.set(layers.tap[row], row);
const modulePath = (row) => layers.module[row] || ROOT;
const inModule = (path, ancestor) => ancestor === ROOT || path === ancestor || path.startsWith(`${ancestor}.`);
