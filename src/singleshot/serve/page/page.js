// The page: what is shown, and what each control does.

import { Service, ServiceError } from "./api.js";
import { Camera } from "./camera.js";
import { ClassFilter } from "./classes.js";
import { printable } from "./draw.js";
import { fileName, save, saveJson, toCoco, toJson } from "./results.js";
import { OriginView } from "./origin_view.js";
import { Stage } from "./stage.js";
import { Table } from "./table.js";
import { preview, upright } from "./upright.js";

const LOWEST = 0.05; // score that is asked for: above it the slider needs no new request

const at = Object.fromEntries([...document.querySelectorAll("[id]")].map((element) => [element.id, element]));

const service = new Service(askKey);
const camera = new Camera(onFrame);
const stage = new Stage(at.stage, at.canvas, onPoint);
const table = new Table(at.rows, (item) => choose(item));
const origins = new OriginView(service, at, paint);
const classes = new ClassFilter(at["class-list"], refresh);

let models = [];
let threshold = 0;
let source = null; // {file, name}
let answer = null; // {model, image, times, roundTrip, scoreMin}
let shown = []; // detections that pass the slider and the classes
let chosen = null; // one of them
let opened = 0; // files so far
let running = null; // the AbortController of the request that is answered next

// ---- models

const model = () => models.find((one) => one.name === at.model.value);
const lowest = () => Math.min(LOWEST, model().thresholds.score_min);

async function loadModels() {
  await fetchModels();
  onModel();
}

async function fetchModels() {
  models = await service.models();
  if (models.length === 0) throw new ServiceError("The models are being loaded.", 503, "starting", 1);
  const before = at.model.value;
  at.model.replaceChildren(...models.map((one) => new Option(printable(one.name, 60), one.name)));
  at.model.value = (models.find((one) => one.name === before) ?? models.find((one) => one.default) ?? models[0]).name;
  for (const control of [at.model, at.open, at.camera, at.threshold]) control.disabled = false;
  at.model.disabled = models.length === 1;
  showModel();
}

function showModel() {
  const { input, engine, classes: names } = model();
  const facts = [`${input.width} × ${input.height}`, engine, `${names.length} ${names.length === 1 ? "class" : "classes"}`];
  at["model-facts"].textContent = facts.filter(Boolean).join(" · ");
  at.forget.hidden = service.key === null;
}

function onModel() {
  showModel();
  answer = null; // of another model
  at.threshold.min = Math.floor(lowest() * 100) / 100;
  setThreshold(model().thresholds.score_min);
  if (source !== null && !camera.isOn) detect();
}

/** A score: two digits, more where it has them. */
const inWords = (value) => (Math.abs(value * 100 - Math.round(value * 100)) < 1e-6 ? value.toFixed(2) : value.toFixed(4));

function setThreshold(value) {
  threshold = value;
  at.threshold.value = value;
  at["threshold-value"].textContent = inWords(value);
  const own = model().thresholds.score_min;
  at["threshold-own"].hidden = value === own;
  at["threshold-own"].textContent = `back to ${inWords(own)}`;
  refresh();
}

// ---- messages

function complain(error, again = null) {
  at["message-text"].textContent = error.message;
  at.message.hidden = false;
  at.retry.hidden = again === null;
  if (again === null) return;
  const end = performance.now() + 1000 * (error.retryAfter ?? 0);
  const tick = () => {
    const left = Math.ceil((end - performance.now()) / 1000);
    at.retry.disabled = left > 0;
    at.retry.textContent = left > 0 ? `Try again (in ${left} s)` : "Try again";
    if (left > 0 && at.retry.onclick === go) setTimeout(tick, 200);
  };
  const go = () => {
    calm();
    again();
  };
  at.retry.onclick = go;
  tick();
}

function calm() {
  at.message.hidden = true;
  at["message-text"].textContent = "";
  at.retry.onclick = null;
}

/** Runs what asks the service; a refusal becomes a message, with a button where trying again may help. */
async function attempt(work) {
  try {
    await work();
  } catch (error) {
    if (error.name === "AbortError") return;
    if (!(error instanceof ServiceError)) throw error;
    complain(error, error.retryAfter === null ? null : () => attempt(work));
  }
}

// ---- pictures

async function openFile(file, name = file.name || "picture") {
  camera.stop();
  calm();
  const turn = ++opened;
  const bitmap = await preview(file);
  if (turn !== opened) {
    bitmap?.close();
    return;
  }
  source = { file, name };
  answer = null;
  if (bitmap !== null) showPicture(bitmap, bitmap.width, bitmap.height);
  else hidePicture();
  refresh();
  await detect();
}

function showPicture(bitmap, width, height) {
  at.stage.classList.remove("empty");
  at.empty.hidden = true;
  stage.show(bitmap, width, height);
}

function hidePicture() {
  at.stage.classList.add("empty");
  at.empty.hidden = false;
  at.canvas.hidden = true;
}

async function openFiles(files, where) {
  if (files.length === 0) {
    complain(new Error(`${where} has no picture in it; save the picture as a file and open that.`));
    return;
  }
  await openFile(files[0]);
  if (files.length > 1) note(`${files.length} files came; the first is shown, one at a time.`);
}

const detect = () => attempt(async () => {
  running?.abort();
  const request = new AbortController();
  running = request;
  const busy = setTimeout(() => setBusy(true), 150);
  try {
    await ask(source, request.signal);
  } finally {
    clearTimeout(busy);
    if (running === request) setBusy(false);
  }
});

function setBusy(on) {
  at.busy.hidden = !on;
  at.stage.setAttribute("aria-busy", String(on));
}

async function ask({ file, name, bitmap }, signal) {
  const [started, scoreMin] = [performance.now(), lowest()];
  const found = await service.detect(file, name, at.model.value, scoreMin, signal);
  const roundTrip = performance.now() - started;
  bitmap ??= await upright(file, found.orientation);
  if (signal.aborted) {
    bitmap?.close();
    return;
  }
  if (found.image.detections.some(({ name }) => !model().classes.includes(name))) await fetchModels(); // a newer file
  answer = { ...found, roundTrip, scoreMin };
  at.forget.hidden = service.key === null;
  const { width, height } = answer.image;
  const fits = bitmap !== null && bitmap.width === width && bitmap.height === height;
  if (!fits) bitmap?.close();
  showPicture(fits ? bitmap : null, width, height);
  note(fits ? "" : "This browser cannot show the picture as the service reads it: boxes without the picture.");
  chosen = null;
  classes.fill(model().classes, answer.image.detections, model().colours, camera.isOn);
  table.fill(answer.image.detections, model().colours);
  refresh();
}

function note(text) {
  at.note.textContent = text;
  at.note.hidden = text === "";
}

// ---- what is shown

function refresh() {
  const all = answer === null ? [] : answer.image.detections;
  const strong = all.filter((item) => item.score >= threshold);
  shown = strong.filter((item) => classes.isOn(item.name));
  classes.count(strong);
  at.classes.hidden = classes.boxes.size === 0;
  at.table.hidden = shown.length === 0;
  for (const name of ["json", "coco", "picture"]) at[`save-${name}`].disabled = answer === null;
  table.filter(shown);
  showCount(all.length);
  showFacts();
  choose(shown.includes(chosen) ? chosen : null);
}

function showCount(all) {
  const objects = `${shown.length} ${shown.length === 1 ? "detection" : "detections"}`;
  at.count.textContent = answer !== null ? objects : source === null ? "No picture yet" : "Nothing detected yet";
  const rest = all - shown.length;
  at.rest.textContent = rest === 0 ? "" : `${rest} more score less or are of classes left out`;
}

function showFacts() {
  at.facts.hidden = answer === null;
  if (answer === null) return;
  const { image, times, roundTrip } = answer;
  at["fact-picture"].textContent = `${printable(image.image, 40)}, ${image.width} × ${image.height}`;
  at["fact-detect"].textContent = milliseconds(times.detect);
  at["fact-request"].textContent = milliseconds(times.total);
  at["fact-round-trip"].textContent = milliseconds(roundTrip);
}

const milliseconds = (value) => `${value < 10 ? value.toFixed(1) : Math.round(value)} ms`;

function choose(item) {
  chosen = item;
  table.mark(item);
  at.detail.hidden = item === null;
  if (item === null || camera.isOn) origins.hide();
  else origins.show({ answer, item, file: source.file, explain: model().explain });
  if (item === null) return;
  const [x0, y0, x1, y1] = item.box;
  at["detail-name"].textContent = printable(item.name);
  at["detail-text"].textContent =
    `score ${item.score.toFixed(3)}, ${(x1 - x0).toFixed(1)} × ${(y1 - y0).toFixed(1)} pixels at ${x0.toFixed(1)}, ${y0.toFixed(1)}`;
  stage.crop(at.crop, item);
}

/** The boxes on the picture; more: {origin, layers} of the chosen one, null without. */
function paint(more) {
  if (answer === null) {
    stage.paint(null);
    return;
  }
  stage.paint({ items: shown, colours: model().colours, chosen, ...more });
  const picture = printable(answer.image.image, 60);
  const what = more === null ? "" : `, one of them with where it comes from`;
  at.canvas.setAttribute("aria-label", `${picture} with ${at.count.textContent}${what}; the table lists them`);
}

function onPoint(item) {
  if (item === null) choose(null);
  else table.focus(item);
}

// ---- camera

async function toggleCamera() {
  if (camera.isOn) {
    camera.stop();
    return;
  }
  calm();
  at.camera.disabled = true;
  running?.abort();
  opened += 1;
  setBusy(false);
  try {
    await camera.start();
  } catch (error) {
    if (error.name !== "AbortError") complain(error, error instanceof ServiceError ? toggleCamera : null);
  } finally {
    showCamera(false);
  }
}

function showCamera(on) {
  at.camera.disabled = false;
  at.camera.hidden = on;
  at.stop.hidden = !on;
  at.rate.hidden = !on;
  at.status.setAttribute("aria-live", on ? "off" : "polite");
}

async function onFrame({ bitmap, file, rate }) {
  if (at.stop.hidden) showCamera(true);
  const frame = { bitmap, file, name: "camera.jpg" };
  running = new AbortController();
  try {
    await ask(frame, running.signal);
    source = { file, name: frame.name };
    calm();
  } catch (error) {
    if (!(error instanceof ServiceError) || error.status !== 503 || !camera.isOn) throw error;
    bitmap.close();
    complain(error);
    await new Promise((done) => setTimeout(done, 1000 * Math.max(error.retryAfter, 0.2)));
  }
  at["fact-rate"].textContent = rate === null ? "…" : `${rate.toFixed(1)} pictures a second`;
}

// ---- dialogs

/** The key that the user enters, null where the dialog is closed without one. */
function askKey(message) {
  at["key-text"].textContent = message;
  at.key.value = "";
  at["key-dialog"].showModal();
  return new Promise((done) => {
    at["key-form"].onsubmit = (event) => {
      event.preventDefault();
      const given = at.key.value.trim();
      if (!/^[\x21-\x7e]+$/.test(given)) {
        at["key-text"].textContent = "A key has letters, digits and signs of ASCII, without spaces.";
        return;
      }
      done(given);
      at["key-dialog"].close();
    };
    at["key-cancel"].onclick = () => at["key-dialog"].close();
    at["key-dialog"].onclose = () => done(null);
  });
}

// ---- controls

const usesLetters = () => at.letters.checked && document.querySelector("dialog[open]") === null;
const LETTERS = { o: () => at.open.click(), c: () => (camera.isOn ? at.stop : at.camera).click() };
const STEPS = { ArrowUp: -1, ArrowLeft: -1, ArrowDown: 1, ArrowRight: 1, Home: -Infinity, End: Infinity };

function onKey(event) {
  if (event.ctrlKey || event.altKey || event.metaKey || document.querySelector("dialog[open]") !== null) return;
  const field = event.target.closest?.("input, select, textarea");
  if (event.key === "Escape") choose(null);
  else if (field?.matches("select, textarea, input:not([type=range], [type=checkbox])")) return;
  else if (Object.hasOwn(LETTERS, event.key) && usesLetters()) LETTERS[event.key]();
  else if (Object.hasOwn(STEPS, event.key) && !field && shown.length > 0) {
    const inTable = at.rows.contains(document.activeElement);
    if (!inTable && !event.key.startsWith("Arrow")) return;
    table.focus(table.next(chosen, STEPS[event.key]));
    event.preventDefault();
  }
}

function onDrag(event) {
  event.preventDefault();
  document.body.classList.toggle("dragging", event.type === "dragover");
  if (event.type === "drop" && models.length > 0) openFiles([...event.dataTransfer.files], "What was dropped");
}

const classNames = () => models.find((one) => one.name === answer.model)?.classes ?? [];

async function savePicture() {
  const type = source.file.type === "image/jpeg" ? "image/jpeg" : "image/png";
  const blob = await stage.toBlob(type);
  if (blob === null) complain(new Error("The picture is too large for this browser to save."));
  else save(blob, fileName(answer.image.image, type === "image/jpeg" ? "-boxes.jpg" : "-boxes.png"));
}

at.model.addEventListener("change", onModel);
at.threshold.addEventListener("input", () => setThreshold(Number(at.threshold.value)));
at["threshold-own"].addEventListener("click", () => setThreshold(model().thresholds.score_min));
at["classes-all"].addEventListener("click", () => classes.setAll(true));
at["classes-none"].addEventListener("click", () => classes.setAll(false));
at.open.addEventListener("click", () => at.file.click());
at.stage.addEventListener("click", () => at.empty.hidden || at.open.click());
at.file.addEventListener("change", () => {
  const files = [...at.file.files];
  at.file.value = ""; // the same file may be opened again
  if (files.length > 0) openFiles(files, "The file");
});
at.camera.addEventListener("click", toggleCamera);
at.stop.addEventListener("click", () => camera.stop());
at.forget.addEventListener("click", () => {
  service.forgetKey();
  at.forget.hidden = true;
});
at.help.addEventListener("click", () => at["help-dialog"].showModal());
at["help-close"].addEventListener("click", () => at["help-dialog"].close());
at["save-json"].addEventListener("click", () => {
  saveJson(toJson(answer, classNames(), shown), fileName(answer.image.image, "-detections.json"));
});
at["save-coco"].addEventListener("click", () => {
  saveJson(toCoco(answer, classNames(), shown), fileName(answer.image.image, "-coco.json"));
});
at["save-picture"].addEventListener("click", savePicture);
document.addEventListener("keydown", onKey);
document.addEventListener("paste", (event) => {
  if (event.target.closest?.("input, textarea") || models.length === 0) return;
  openFiles([...event.clipboardData.files], "The clipboard");
});
for (const type of ["dragover", "dragleave", "drop"]) document.addEventListener(type, onDrag);
document.addEventListener("visibilitychange", () => document.hidden && camera.stop());

attempt(loadModels);
