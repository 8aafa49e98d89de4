// The page of `singleshot label`.

import { Service } from "./api.js";
import { Canvas } from "./canvas.js";
import { colourOf, printable } from "./draw.js";
import { Labels, overlap } from "./labels.js";

const SAME = 0.5; // overlap from which a proposal is an object that is there
const STEPS = [1, 5, 20]; // pixels that an arrow key moves a box
const ZOOMS = [1, 2, 4];
const ORDERS = { name: "by file name", unsure: "most unsure first", suspect: "most suspect labels first" };
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const at = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));
const token = new URLSearchParams(location.hash.slice(1)).get("token");
if (token !== null) history.replaceState(null, "", location.pathname); // it is not shown to whoever looks on
const service = new Service(async () => null, token);

const page = { set: null, images: [], place: 0, image: null, proposals: [], chosen: null, className: "", step: 1, busy: false };
const labels = new Labels(() => show());
const canvas = new Canvas(at.stage, at.canvas, {
  choose: (item) => choose(item),
  draw: (box) => addBox(box),
  change: (key, { box, start, dx, dy }) => {
    labels.change(key, { box: box === undefined ? labels.moved(start, dx, dy) : labels.resized(start, box) }, `drag ${key}`);
  },
  settle: () => {
    labels.last = "";
    say(describe(chosenItem()));
  },
});

// ------------------------------------------------------------------------------------------------ requests

/** Do it with the page waiting; what goes wrong is shown. Gives whether it went well. */
async function attempt(what) {
  if (page.busy) return false;
  page.busy = true;
  at.busy.hidden = false;
  try {
    at.message.hidden = true;
    await what();
    return true;
  } catch (error) {
    complain(error);
    return false;
  } finally {
    page.busy = false;
    at.busy.hidden = true;
    show();
  }
}

function complain(error) {
  const stale = error.code === "changed_elsewhere";
  let text = error.message;
  if (error.status === 401) text = "This page's token is not the service's: open the address that singleshot label printed.";
  if (stale) text = "The labels of this image were changed elsewhere in the meantime. Nothing was overwritten; load them again to go on from there.";
  at["message-text"].textContent = text;
  at.reload.hidden = !stale;
  at.message.hidden = false;
}

const put = (path, values, method = "PUT") =>
  service.ask(path, { method, body: JSON.stringify(values), headers: { "Content-Type": "application/json" } });

async function start() {
  page.set = await service.ask("v1/set");
  page.className = page.set.classes[0] ?? "";
  at.about.textContent = `${page.set.data} (${page.set.form})`;
  at.order.replaceChildren(...page.set.orders.map((order) => new Option(ORDERS[order], order)));
  showClasses();
  if (page.set.model !== null) {
    at["proposals-card"].hidden = false;
    at.threshold.value = String(Math.max(page.set.model.score_min, 0.05));
  }
  for (const id of ["order", "class", "class-name", "class-add", "place", "threshold", "add"]) at[id].disabled = false;
  await loadImages();
  const first = page.images.findIndex(({ looked }) => !looked);
  await loadImage(Math.max(first, 0));
}

function showClasses() {
  const names = page.set.classes;
  at.class.replaceChildren(...names.map((name, k) => new Option(`${k < 9 ? `${k + 1}  ` : ""}${printable(name)}`, name)));
  at["class-hint"].textContent = names.length > 1 ? "Of the chosen box and of new ones; keys 1 to 9." : "";
  const left = page.set.model?.left_out ?? [];
  at["left-out"].hidden = left.length === 0;
  at["left-out"].textContent = `Not proposed, for this set has no such class: ${left.map((name) => printable(name)).join(", ")}`;
}

/** A class more, which the chosen box and new ones get. */
async function addClass(name) {
  const done = await attempt(async () => {
    page.set = await put("v1/classes", { name }, "POST");
    at["class-name"].value = "";
    showClasses();
    if (page.set.model !== null) await loadProposals(page.image.id);
  });
  if (done) setClass(page.set.classes.at(-1));
}

async function loadImages() {
  const answer = await service.ask(`v1/images?${new URLSearchParams({ order: at.order.value || "name" })}`);
  page.images = answer.images;
  at.place.max = String(page.images.length);
  const all = page.images.length;
  if (answer.detected !== null && answer.detected < all && at.order.value !== "name") {
    say(`The model has seen ${answer.detected} of ${all} images so far; choose the order again for the rest.`);
  }
}

async function loadImage(place) {
  const { id, name } = page.images[place];
  const [image, bitmap] = await Promise.all([
    service.ask(`v1/images/${id}`).catch((error) => closedImage(id, name, error)),
    picture(id).catch(complain),
  ]);
  Object.assign(page, { place, image, chosen: null, proposals: [] });
  canvas.load(bitmap ?? null, image.width, image.height);
  labels.load(image);
  say(`${image.name}: ${count(image.objects.length, "object")}`);
  if (page.set.model !== null) loadProposals(id).catch(complain);
}

async function picture(id) {
  return createImageBitmap(await (await service.answer(`v1/images/${id}/picture`)).blob());
}

/** An image whose label or file cannot be read: it is shown as such, and the others stay in reach. */
function closedImage(id, name, error) {
  if (error.code !== "refused") throw error;
  const none = { version: "", objects: [], labelled: true, suspects: [], looked: false };
  return { id, name, width: 320, height: 240, fixed: error.message, ...none };
}

async function loadProposals(id) {
  const { proposals } = await service.ask(`v1/images/${id}/proposals`);
  if (page.image.id !== id) return;
  page.proposals = proposals.map((one, k) => ({ ...one, key: `proposal ${k}` }));
  show();
}

async function save(isForced = false) {
  if (!labels.isChanged && !isForced) return;
  const objects = labels.objects.map(({ number, name, box }) => ({ number, name, box }));
  const image = await put(`v1/images/${page.image.id}/objects`, { version: page.image.version, objects });
  page.image = image;
  page.chosen = null;
  labels.load(image);
  say("Saved.");
}

/** Save what was changed, note that the image was looked at, and show the one at another place. */
const go = (place) =>
  attempt(async () => {
    if (place < 0 || place >= page.images.length) {
      await save();
      await look();
      say(place < 0 ? "This is the first image." : "This is the last image.");
      return;
    }
    await save();
    await look();
    await loadImage(place);
  });

async function look() {
  const row = page.images[page.place];
  if (row.looked) return;
  await put(`v1/images/${row.id}/looked`, { looked: true });
  row.looked = true;
}

// ------------------------------------------------------------------------------------------------ what is shown

const count = (number, one) => `${number} ${one}${number === 1 ? "" : "s"}`;
const numbers = (box) => box.map((side) => Math.round(side)).join(" ");

function shownProposals() {
  const isThere = ({ name, box }) => labels.objects.some((object) => object.name === name && overlap(object.box, box) >= SAME);
  return page.proposals.filter((one) => one.score >= Number(at.threshold.value) && !isThere(one));
}

function chosenItem() {
  return labels.find(page.chosen) ?? shownProposals().find(({ key }) => key === page.chosen) ?? null;
}

const suspectsNow = () =>
  page.image.suspects.filter(({ number, name, box, kind }) => {
    if (number === null) return !labels.objects.some((one) => one.name === name && overlap(one.box, box) >= SAME);
    const object = labels.objects.find((one) => one.number === number);
    return object !== undefined && (labels.saved.includes(object) || (kind === "class" && object.name !== name));
  });

function describe(item) {
  if (item === null) return "No box chosen.";
  const more = [item.difficult && "difficult", item.crowd && "crowd", item.fixed].filter(Boolean).join(", ");
  return `${printable(item.name)}${"score" in item ? `, proposed with ${item.score.toFixed(2)}` : ""}, box ${numbers(item.box)}${more && `, ${more}`}`;
}

function show() {
  if (page.image === null) return;
  const [proposals, suspects, chosen] = [shownProposals(), suspectsNow(), chosenItem()];
  const colours = page.set.colours;
  canvas.paint({ objects: labels.objects, proposals, suspects, chosen, colours });
  const total = page.images.length;
  const looked = page.images.filter((one) => one.looked).length;
  Object.assign(at.progress, { value: looked, max: total });
  at["progress-text"].textContent = `${looked} of ${total} looked at`;
  at.place.value = String(page.place + 1);
  at["place-of"].textContent = `of ${total}`;
  const state = labels.isChanged ? "not saved yet" : page.image.labelled ? "saved" : "no label file";
  at["file-name"].textContent = `${page.image.name}, ${page.image.width} × ${page.image.height}, ${state}${page.image.fixed && `; ${page.image.fixed}`}`;
  at.count.textContent = count(labels.objects.length, "object");
  at.canvas.setAttribute("aria-label", `${page.image.name}: ${count(labels.objects.length, "object")}, ${describe(chosen)}`);
  fill(at.objects, labels.objects, chosen, (item) => [item.difficult && "difficult", item.crowd && "crowd", numbers(item.box)]);
  fill(at.proposals, proposals, chosen, (item) => [item.score.toFixed(2)], (item) => accept([item]));
  at["suspects-card"].hidden = suspects.length === 0;
  at.suspects.replaceChildren(...suspects.map(suspectRow));
  at["threshold-value"].textContent = Number(at.threshold.value).toFixed(2);
  at["accept-all"].textContent = `Accept all ${proposals.length || ""}`.trim();
  at.class.value = chosen !== null && !("score" in chosen) ? chosen.name : page.className;
  at.zoom.textContent = `Zoom ${canvas.zoom}×`;
  const closed = page.busy || page.image.fixed !== "";
  const off = {
    previous: page.busy, next: page.busy, zoom: page.busy, undo: closed || !labels.canUndo, redo: closed || !labels.canRedo,
    add: closed, remove: closed || chosen === null || "score" in chosen, save: closed || !labels.isChanged,
    "accept-all": closed || proposals.length === 0,
  };
  for (const [id, isOff] of Object.entries(off)) at[id].disabled = isOff;
  at.empty.hidden = page.image.labelled || labels.objects.length > 0;
}

/** Rows with a button each, of which one is in the order of the Tab key; the focus stays on its row. */
function fill(list, items, chosen, more, accepted = null) {
  const focused = list.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  const entry = items.includes(chosen) ? chosen : items[0];
  const scrolled = list.scrollTop;
  list.replaceChildren(
    ...items.map((item) => {
      const row = document.createElement("li");
      row.classList.toggle("chosen", item === chosen);
      const swatch = Object.assign(document.createElement("span"), { className: "swatch" });
      swatch.style.backgroundColor = colourOf(page.set.colours, item.name);
      const name = Object.assign(document.createElement("button"), { type: "button", className: "name", tabIndex: item === entry ? 0 : -1 });
      name.dataset.key = String(item.key);
      name.setAttribute("aria-pressed", String(item === chosen));
      const text = Object.assign(document.createElement("span"), { className: "more", textContent: more(item).filter(Boolean).join(" ") });
      name.append(swatch, printable(item.name), text);
      name.addEventListener("click", () => choose(item));
      row.append(name);
      if (accepted !== null) {
        const button = Object.assign(document.createElement("button"), { type: "button", className: "plain", textContent: "Accept" });
        button.setAttribute("aria-label", `Accept ${printable(item.name)} ${item.score.toFixed(2)}`);
        button.tabIndex = item === entry ? 0 : -1;
        button.addEventListener("click", () => accepted(item));
        row.append(button);
      }
      return row;
    }),
  );
  list.scrollTop = scrolled;
  const row = list.querySelector("li.chosen");
  if (row !== null) list.scrollTop += Math.min(row.offsetTop - list.offsetTop - list.scrollTop, 0) + Math.max(row.offsetTop + row.offsetHeight - list.offsetTop - list.scrollTop - list.clientHeight, 0);
  if (focused !== null) list.querySelector(`[data-key="${focused}"], button`)?.focus();
}

function suspectRow({ kind, about, suspicion, number, name, box }) {
  const row = document.createElement("li");
  const button = Object.assign(document.createElement("button"), { type: "button", className: "name" });
  const tag = Object.assign(document.createElement("span"), { className: "tag", textContent: kind });
  const text = Object.assign(document.createElement("span"), { textContent: `${about}${name && ` (${printable(name)})`}` });
  const more = Object.assign(document.createElement("span"), { className: "more", textContent: suspicion.toFixed(2) });
  button.append(tag, text, more);
  button.addEventListener("click", () => {
    const near = (items) => [...items].sort((one, other) => overlap(other.box, box) - overlap(one.box, box))[0] ?? null;
    choose(number === null ? near(shownProposals()) : (labels.objects.find((one) => one.number === number) ?? null));
  });
  row.append(button);
  return row;
}

function say(text) {
  at.status.textContent = text;
}

// ------------------------------------------------------------------------------------------------ what is done

function choose(item) {
  page.chosen = item?.key ?? null;
  show();
  canvas.showChosen();
  say(describe(chosenItem()));
}

const isOpen = () => page.image !== null && !page.busy && page.image.fixed === "";

function addBox(box) {
  if (!isOpen() || page.className === "") return;
  [page.chosen] = labels.add([{ name: page.className, box }]);
  show();
  say(`New: ${describe(chosenItem())}`);
}

function addInTheMiddle() {
  const { width, height } = page.image;
  addBox([width * 0.375, height * 0.375, width * 0.625, height * 0.625]);
}

function accept(some) {
  if (!isOpen() || some.length === 0) return;
  const keys = labels.add(some);
  page.chosen = some.length === 1 ? keys[0] : null;
  show();
  say(`Accepted: ${some.length === 1 ? describe(chosenItem()) : count(some.length, "proposal")}`);
}

function remove() {
  const item = chosenItem();
  if (!isOpen() || item === null || "score" in item) return;
  const place = labels.objects.indexOf(item);
  labels.remove(item.key);
  page.chosen = labels.objects[Math.min(place, labels.objects.length - 1)]?.key ?? null;
  show();
  say(`Deleted: ${describe(item)}`);
}

function setClass(name) {
  if (name === undefined || !isOpen()) return;
  page.className = name;
  const item = chosenItem();
  if (item !== null && !("score" in item)) labels.change(item.key, { name });
  show();
  say(item === null ? `New boxes are ${printable(name)}.` : describe(chosenItem()));
}

function nudge([x, y], resizes) {
  const item = chosenItem();
  if (!isOpen() || item === null || "score" in item) return false;
  if (item.fixed !== "") {
    say(`${item.fixed}; its box stays`);
    return true;
  }
  const [dx, dy] = [x * page.step, y * page.step];
  const [x0, y0, x1, y1] = item.box;
  const box = resizes ? labels.resized(item.box, [x0, y0, Math.max(x1 + dx, x0 + 1), Math.max(y1 + dy, y0 + 1)]) : labels.moved(item.box, dx, dy);
  labels.change(item.key, { box }, `${resizes ? "resize" : "move"} ${item.key}`);
  say(describe(chosenItem()));
  return true;
}

function chooseNext(steps) {
  const items = [...labels.objects, ...shownProposals()];
  const now = items.indexOf(chosenItem());
  if (items.length === 0) say("No objects.");
  else choose(items[now < 0 ? (steps > 0 ? 0 : items.length - 1) : (now + steps + items.length) % items.length]);
}

function undo(back) {
  if (!isOpen() || !(back ? labels.canUndo : labels.canRedo)) return;
  if (back) labels.undo();
  else labels.redo();
  say(back ? "Undone." : "Done again.");
}

function setStep(by) {
  page.step = STEPS[Math.min(Math.max(STEPS.indexOf(page.step) + by, 0), STEPS.length - 1)];
  say(`Steps of ${count(page.step, "pixel")}.`);
}

function zoom() {
  canvas.setZoom(ZOOMS[(ZOOMS.indexOf(canvas.zoom) + 1) % ZOOMS.length]);
  show();
}

function acceptOne() {
  const shown = shownProposals();
  const chosen = chosenItem();
  accept(shown.includes(chosen) ? [chosen] : shown.slice(0, 1));
}

const saveNow = () => attempt(() => save());
const saveEmpty = () => !at.empty.hidden && attempt(() => save(true));
const LETTERS = {
  n: () => go(page.place + 1), p: () => go(page.place - 1), j: () => chooseNext(1), k: () => chooseNext(-1),
  b: addInTheMiddle, x: remove, a: acceptOne, A: () => accept(shownProposals()), u: () => undo(true), r: () => undo(false),
  e: saveEmpty, z: zoom, s: saveNow, c: () => at.class.focus(), t: () => at.threshold.focus(),
  "+": () => setStep(1), "-": () => setStep(-1),
};

function onKey(event) {
  if (page.image === null || document.querySelector("dialog[open]") !== null) return;
  const field = event.target.closest("input, select, textarea");
  if (event.ctrlKey || event.metaKey) {
    const does = { z: () => undo(!event.shiftKey), y: () => undo(false), s: saveNow }[event.key.toLowerCase()];
    if (does !== undefined && !event.altKey) {
      event.preventDefault();
      does();
    }
    return;
  }
  if (event.altKey) return;
  if (event.key === "Escape") {
    if (field !== null) field.blur();
    else choose(null);
  } else if (field === null && event.key === "Delete") remove();
  else if (field === null && event.key in ARROWS) {
    if (nudge(ARROWS[event.key], event.shiftKey)) event.preventDefault();
  } else if (field === null && event.key === "?") openHelp();
  else if (field === null && at.letters.checked) {
    const does = /^[1-9]$/.test(event.key) ? () => setClass(page.set.classes[Number(event.key) - 1]) : LETTERS[event.key];
    if (does === undefined) return;
    event.preventDefault();
    does();
  }
}

function openHelp() {
  at["help-dialog"].showModal();
}

for (const [id, does] of Object.entries({
  previous: LETTERS.p, next: LETTERS.n, add: addInTheMiddle, remove, undo: LETTERS.u, redo: LETTERS.r, zoom, save: saveNow,
  empty: saveEmpty, "accept-all": LETTERS.A, help: openHelp, "help-close": () => at["help-dialog"].close(),
  reload: () => attempt(() => loadImage(page.place)),
})) {
  at[id].addEventListener("click", does);
}
at.class.addEventListener("change", () => setClass(at.class.value));
at["class-form"].addEventListener("submit", (event) => {
  event.preventDefault();
  addClass(at["class-name"].value);
});
at.threshold.addEventListener("input", show);
at.place.addEventListener("change", () => {
  const place = Math.trunc(Number(at.place.value)) - 1;
  if (page.images[place] !== undefined) go(place);
  else show();
});
at.order.addEventListener("change", () =>
  attempt(async () => {
    await save();
    await loadImages();
    await loadImage(0);
  }),
);
document.addEventListener("keydown", onKey);
window.addEventListener("beforeunload", (event) => labels.isChanged && event.preventDefault());

attempt(start);
