"use strict";
// Text only ever becomes text: nothing here writes HTML.
const data = JSON.parse(document.getElementById("data").textContent);
const find = (id) => document.getElementById(id);
const PAGE = 60; // rows that are made at once
const FILTERS = {
  all: () => true,
  differs: (row) => row.differs,
  wrong: (row) => row.answers.some((one) => one.right === false),
  errors: (row) => row.error !== null,
};
data.rows.forEach((row) => {
  const texts = [row.id, row.question, row.error, ...row.images, ...row.expected];
  row.found = [...texts, ...row.answers.map((one) => one.text)].join("\n").toLowerCase();
});
const rank = (row) => (row.differs ? 0 : row.error !== null ? 1 : 2);
const ordered = data.rows.map((row, n) => [rank(row), n, row]).sort((a, b) => a[0] - b[0] || a[1] - b[1]).map((one) => one[2]);
const state = { q: "", show: "all", kind: "", shown: [], made: 0, at: -1, waiting: [] };

function make(tag, kind, ...inside) {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  element.append(...inside.filter((one) => one !== null && one !== ""));
  return element;
}

function load(image, number) {
  const stored = find("p" + number);
  if (stored) image.src = "data:image/jpeg;base64," + stored.textContent;
  else if (document.readyState === "loading") state.waiting.push([image, number]);
}

function levels(bitsets) { // how many cuts each cell's token outlived
  const levels = [];
  for (const bits of bitsets) {
    const bytes = atob(bits);
    for (let n = 0; n < 8 * bytes.length; n++) levels[n] = (levels[n] || 0) + ((bytes.charCodeAt(n >> 3) >> (n & 7)) & 1);
  }
  return levels;
}

function veil(canvas, cells, framed) {
  const [layout, bitsets] = cells, level = levels(bitsets), cuts = bitsets.length;
  const pen = canvas.getContext("2d"), { width, height } = canvas;
  const shade = (share) => (pen.fillStyle = `rgb(104 104 116 / ${share})`);
  const boxes = [];
  for (const [top, left, high, wide, rows, columns] of data.layouts[layout])
    for (let row = 0; row < rows; row++)
      for (let column = 0; column < columns; column++) {
        const x = Math.round((left + column * wide) * width), y = Math.round((top + row * high) * height);
        boxes.push([x, y, Math.round((left + (column + 1) * wide) * width) - x, Math.round((top + (row + 1) * high) * height) - y]);
      }
  shade(0.6);
  pen.fillRect(0, 0, width, height);
  pen.strokeStyle = "rgb(255 196 0)";
  for (let number = 1; number <= cuts; number++) {
    shade(0.6 - (0.28 * number) / Math.max(1, cuts - 1));
    boxes.forEach((box, n) => {
      if (level[n] !== number) return;
      pen.clearRect(...box);
      if (number < cuts) pen.fillRect(...box);
      else if (framed && Math.min(box[2], box[3]) >= 10) pen.strokeRect(box[0] + 0.5, box[1] + 0.5, box[2] - 1, box[3] - 1);
    });
  }
}

function picture(number, cells, scale) {
  const image = make("img");
  image.alt = "";
  const box = make("span", "picture", image);
  if (cells) image.addEventListener("load", () => {
    const canvas = make("canvas");
    canvas.width = image.naturalWidth * scale;
    canvas.height = image.naturalHeight * scale;
    veil(canvas, cells, scale > 1);
    box.append(canvas);
  });
  load(image, number);
  return box;
}

function answer(one, alone) {
  const mark = one.right === true ? " ✓" : one.right === false ? " ✗" : "";
  const text = make("bdi", one.right === true ? "right" : one.right === false ? "wrong" : "", (one.text ?? "") + mark);
  return make("p", "answer", make("span", "", one.name), text);
}

function texts(row) {
  const text = make("div", "text");
  text.append(make("p", "question", make("bdi", "", row.question), " ", make("bdi", "id", row.id)));
  if (row.error !== null) text.append(make("p", "error", row.error));
  text.append(...row.answers.map(answer));
  if (row.expected.length) text.append(make("p", "answer", make("span", "", "expected"), make("bdi", "", row.expected.join(" | "))));
  const meta = make("p", "meta", row.facts.join(" · "));
  if (row.differs) meta.prepend(make("span", "flag", "answers differ"), row.facts.length ? " · " : "");
  if (row.earlier) meta.append(" · answered by an earlier run: no overlay");
  text.append(meta);
  return text;
}

function article(row, number) {
  const pictures = make("div", "pictures", ...row.pictures.map((one, n) => picture(one, row.cells[n], 1)));
  const element = make("article", "row" + (row.differs ? " differs" : "") + (row.error !== null ? " failed" : ""), pictures, texts(row));
  element.addEventListener("click", () => { if (!getSelection().toString()) { move(number); enlarge(); } });
  return element;
}

function extend() {
  const more = state.shown.slice(state.made, state.made + PAGE);
  find("rows").append(...more.map((row, n) => article(row, state.made + n)));
  state.made += more.length;
  const left = state.shown.length - state.made;
  find("end").textContent = left ? `${left.toLocaleString("en")} more rows: scroll on` : state.shown.length ? "" : "No row matches.";
}

function show() {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const wanted = FILTERS[state.show] || FILTERS.all;
  state.shown = ordered.filter((row) => wanted(row) && (!state.kind || row.kind === state.kind) && words.every((word) => row.found.includes(word)));
  state.made = 0;
  state.at = -1;
  find("rows").replaceChildren();
  find("count").textContent = `${state.shown.length.toLocaleString("en")} of ${ordered.length.toLocaleString("en")} rows`;
  watch.observe(find("end"));
  document.querySelectorAll("#filters button").forEach((one) => one.setAttribute("aria-pressed", one.dataset.show === state.show));
  extend();
  const hash = new URLSearchParams(["q", "show", "kind"].filter((key) => state[key] && state[key] !== "all").map((key) => [key, state[key]])).toString();
  history.replaceState(null, "", hash ? "#" + hash : "#");
}

function move(to) {
  if (to < 0 || to >= state.shown.length) return;
  while (to >= state.made) extend();
  const rows = find("rows").children;
  if (state.at >= 0) rows[state.at].classList.remove("on");
  state.at = to;
  rows[to].classList.add("on");
  rows[to].scrollIntoView({ block: "nearest" });
}

function enlarge() {
  const row = state.shown[state.at], dialog = find("large");
  if (!row) return;
  const pictures = make("div", "pictures");
  row.pictures.forEach((one, n) => {
    pictures.append(picture(one, null, 1));
    if (row.cells[n]) pictures.append(picture(one, row.cells[n], 4));
  });
  dialog.replaceChildren(pictures, texts(row), make("p", "meta", row.images.join(" · ")));
  if (!dialog.open) dialog.showModal();
}

function theme() {
  const style = document.documentElement.style;
  const dark = style.colorScheme ? style.colorScheme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  style.colorScheme = dark ? "light" : "dark";
}

function toggle() {
  find("veil").firstElementChild.checked = !document.body.classList.toggle("bare");
}

const keys = {
  j: () => move(state.at + 1), ArrowDown: () => move(state.at + 1),
  k: () => move(state.at - 1), ArrowUp: () => move(state.at - 1),
  Enter: enlarge, "/": () => find("search").focus(), o: toggle, t: theme,
};
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input[type=search], select")) {
    if (event.key === "Escape" || event.key === "Enter") event.target.blur();
    return;
  }
  if (!keys[event.key] || (event.key === "Enter" && event.target.matches("button"))) return;
  event.preventDefault();
  keys[event.key]();
  if (find("large").open && event.key !== "Enter") enlarge();
});

const asked = new URLSearchParams(location.hash.slice(1));
for (const key of ["q", "show", "kind"]) state[key] = asked.get(key) || state[key];
for (const [name, wanted] of Object.entries(FILTERS)) {
  const count = ordered.filter(wanted).length;
  if (name !== "all" && !count) continue;
  const button = make("button", "", `${name} ${count.toLocaleString("en")}`);
  button.dataset.show = name;
  button.addEventListener("click", () => { state.show = name; show(); });
  find("filters").append(button);
}
const kinds = [...new Set(ordered.map((row) => row.kind).filter(Boolean))].sort();
if (kinds.length > 1) {
  const options = ["", ...kinds].map((kind) => { const one = make("option", "", kind || "all kinds"); one.value = kind; return one; });
  find("kind").append(...options);
  find("kind").hidden = false;
  find("kind").value = state.kind;
}
find("kind").addEventListener("change", (event) => { state.kind = event.target.value; show(); });
find("search").value = state.q;
find("search").addEventListener("input", (event) => { state.q = event.target.value; show(); });
find("veil").hidden = !ordered.some((row) => row.cells.length);
find("veil").addEventListener("change", toggle);
find("theme").addEventListener("click", theme);
find("large").addEventListener("click", (event) => { if (event.target === find("large")) find("large").close(); });
const watch = new IntersectionObserver((seen) => {
  if (!seen.some((one) => one.isIntersecting)) return;
  extend();
  watch.unobserve(find("end")); // else it stays silent while the end stays near
  if (state.made < state.shown.length) watch.observe(find("end"));
}, { rootMargin: "800px" });
document.addEventListener("DOMContentLoaded", () => { for (const [image, number] of state.waiting.splice(0)) load(image, number); });
show();
