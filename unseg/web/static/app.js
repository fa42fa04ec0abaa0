// The page: one picture on the bench, its objects, one strength for all. It binds the other files together.

import { Gallery } from "./gallery.js";
import { Intake } from "./intake.js";
import { ObjectMask } from "./mask.js";
import { Files, showLooks, showVerdict } from "./results.js";
import { Tab } from "./server.js";
import { colourOf, Stage } from "./stage.js";
import { Tools } from "./tools.js";
import { element, say } from "./words.js";

const RESTS = 600; // ms without a change
const byId = (id) => document.getElementById(id);
const chosen = (name) => document.querySelector(`input[name="${name}"]:checked`).value;

class Page {
  constructor(tab) {
    this.tab = tab;
    this.pictures = new Map();
    this.masks = new Map();
    this.current = null; // the picture on the bench
    this.number = null; // the object that the brush adds to
    this.sending = Promise.resolve(); // what the server must have before it is asked for results
    this.version = 0; // of objects and strength: what the server is asked for is never what it showed before
    this.stage = new Stage();
    this.tools = new Tools(this.stage, {
      found: (box) => this.find(box),
      stroke: () => this.objectToPaint(),
      changed: (word) => this.objectsChanged(word),
      divided: (share) => this.divide(share),
    });
    this.gallery = new Gallery({
      chosen: (picture) => this.open(picture),
      removed: (picture) => this.remove(picture),
      address: (picture) => tab.of(picture, "/thumbnail.png"),
    });
    this.files = new Files(tab, () => ({ strength: chosen("strength"), format: chosen("format") }), (making) => this.made(making));
    this.fillIn();
    this.listen();
    this.intake = new Intake(tab, (picture) => this.take(picture));
  }

  // --- set-up

  fillIn() {
    const { facts } = this.tab;
    byId("whole-warning").textContent = `Noise over the whole image, ${facts.whole_image}.`;
    byId("noise-name").textContent = `Noise × ${facts.noise_gain}`;
    for (const [word, levels] of Object.entries(facts.strengths)) {
      const input = element("input", { type: "radio", name: "strength", value: word, checked: word === "standard" });
      byId("strengths").append(element("label", {}, input, element("span", {}, word)));
      input.addEventListener("change", () => this.strengthChanged());
      input.dataset.levels = levels;
    }
    this.describeStrength();
  }

  describeStrength() {
    const { levels } = document.querySelector('input[name="strength"]:checked').dataset;
    byId("strength-words").textContent = `No value of an object changes by more than ${levels} of 255 grey levels; all else stays as it is.`;
  }

  listen() {
    const each = (name, act) => document.querySelectorAll(`input[name="${name}"]`).forEach((input) => input.addEventListener("change", () => act(input.value)));
    each("view", () => this.viewChanged());
    each("zoom", (zoom) => this.stage.setZoom(zoom));
    each("tool", (tool) => this.tools.choose(tool));
    each("format", () => this.updateReady());
    byId("slider").addEventListener("input", (event) => this.divide(Number(event.target.value)));
    byId("undo").addEventListener("click", () => this.undo());
    byId("propose").addEventListener("click", () => this.propose());
    byId("whole").addEventListener("change", (event) => this.setWhole(event.target.checked));
    byId("whole-all").addEventListener("click", () => this.wholeForAll());
    addEventListener("beforeunload", (event) => this.pictures.size && event.preventDefault());
  }

  // --- pictures

  take(picture) {
    this.pictures.set(picture.id, picture);
    this.gallery.add(picture);
    if (!this.current) this.open(picture);
    this.updateReady();
  }

  maskOf(picture) {
    if (!this.masks.has(picture.id)) this.masks.set(picture.id, new ObjectMask(picture.width, picture.height, this.tab.facts.most_objects));
    return this.masks.get(picture.id);
  }

  get mask() {
    return this.maskOf(this.current);
  }

  open(picture) {
    this.current = picture;
    this.number = null;
    byId("nothing").hidden = true;
    byId("bench").hidden = false;
    byId("work-name").textContent = picture.name;
    this.gallery.select(picture);
    this.stage.show(picture, this.tab.of(picture, "/original.png"), this.mask);
    this.stage.frame.setAttribute("aria-label", `${picture.name}, ${picture.width} by ${picture.height} pixels`);
    this.tell(picture.note);
    document.querySelector('input[name="view"][value="object"]').checked = true;
    this.tools.choose(chosen("tool"));
    this.showObjects();
    this.viewChanged();
    this.updateVerdict();
  }

  async remove(picture) {
    await this.attempt(() => this.tab.remove(picture));
    this.pictures.delete(picture.id);
    this.masks.delete(picture.id);
    this.gallery.remove(picture);
    say(`${picture.name} is removed.`);
    if (this.current === picture) {
      this.current = null;
      const [next] = this.pictures.values();
      if (next) this.open(next);
      else {
        byId("bench").hidden = true;
        byId("nothing").hidden = false;
        byId("work-name").textContent = "Object";
      }
    }
    this.updateReady();
  }

  updateReady() {
    const all = [...this.pictures.values()];
    this.files.ready(all.filter((picture) => picture.object).length, all.length);
    byId("whole-all").hidden = all.every((picture) => picture.object) || all.length < 2;
  }

  // --- objects

  async find(box) {
    const word = (found) => (found.filled ? "No outline was found, so the box itself was taken. Remove what is too much with the brush." : "Object found.");
    await this.takeObjects("Finding the object…", (picture) => this.tab.outline(picture, box), word);
  }

  /** Takes the objects that `--masks auto` finds; they come on top of those that there are. */
  async propose() {
    if (this.isProposing) return;
    this.isProposing = true; // the button stays enabled: it would lose the focus
    await this.takeObjects("Looking for objects…", async (picture) => ({ runs: await this.tab.proposals(picture) }), () => "Objects found. Look whether they hold all that networks are not to learn.");
    this.isProposing = false;
  }

  /** Asks the server for objects of the picture on the bench, and takes them. word: says what was found. */
  async takeObjects(busy, asked, word) {
    const { current, mask } = this;
    this.busy(busy);
    const taken = await this.attempt(async () => {
      const found = await asked(current);
      const count = found.runs.reduce((most, run) => Math.max(most, run & 255), 0);
      return { ...found, numbers: mask.freeNumbers(count) };
    });
    this.busy(null);
    if (!taken) return;
    mask.begin();
    mask.fill(taken.runs, taken.numbers);
    const area = mask.end();
    if (current !== this.current) {
      this.send(current);
      return;
    }
    [this.number] = taken.numbers;
    if (area) this.stage.redraw(area);
    this.objectsChanged(word(taken));
  }

  /** Returns the number of the object that a stroke adds to; a new one where there is none. */
  objectToPaint() {
    this.number ??= this.mask.objects.at(-1)?.number ?? this.mask.freeNumbers()[0];
    return this.number;
  }

  objectsChanged(word) {
    this.current.object = this.mask.isEmpty ? null : "marked";
    this.send(this.current);
    this.showObjects();
    const share = this.mask.objects.reduce((sum, object) => sum + object.pixels, 0) / this.mask.labels.length;
    say(`${word} ${this.mask.objects.length} ${this.mask.objects.length === 1 ? "object" : "objects"}, ${(100 * share).toFixed(0)} % of the picture.`);
  }

  showObjects() {
    const { mask, current } = this;
    const isWhole = current.object === "whole";
    byId("objects").replaceChildren(...mask.objects.map((object) => this.objectRow(object)));
    byId("no-object").hidden = !mask.isEmpty || isWhole;
    byId("objects").hidden = isWhole;
    byId("whole").checked = isWhole;
    byId("undo").disabled = !mask.undos.length;
    for (const input of document.querySelectorAll("#tools input, #propose")) input.disabled = isWhole;
    this.stage.overlay.classList.toggle("unseen", isWhole);
  }

  objectRow({ number, pixels }) {
    const share = ((100 * pixels) / this.mask.labels.length).toFixed(1);
    const input = element("input", { type: "radio", name: "object", checked: number === this.objectToPaint() });
    input.addEventListener("change", () => (this.number = number));
    const swatch = element("span", { class: `swatch swatch-${colourOf(number)}` });
    const label = element("label", {}, input, swatch, `Object ${number}, ${share} %`);
    const remove = element("button", { type: "button", "aria-label": `Remove object ${number}` }, "Remove");
    remove.addEventListener("click", () => {
      this.mask.begin();
      this.mask.remove(number);
      this.mask.end();
      this.number = null;
      this.stage.redraw();
      this.objectsChanged(`Object ${number} is removed.`);
      byId("undo").focus();
    });
    return element("li", {}, label, remove);
  }

  undo() {
    const area = this.mask.undo();
    if (!area) return;
    this.number = null;
    this.stage.redraw(area);
    this.objectsChanged("Undone.");
  }

  setWhole(isWhole) {
    this.current.object = isWhole ? "whole" : this.mask.isEmpty ? null : "marked";
    this.send(this.current);
    this.showObjects();
    say(isWhole ? byId("whole-warning").textContent : "Only what is marked.");
  }

  wholeForAll() {
    for (const picture of this.pictures.values()) {
      if (picture.object) continue;
      picture.object = "whole";
      this.send(picture);
    }
    this.showObjects();
    say(byId("whole-warning").textContent);
  }

  /** Sends a picture's object to the server, after what is on its way, and shows what comes of it. */
  send(picture) {
    const runs = picture.object === "whole" ? undefined : this.maskOf(picture).runs();
    picture.object = picture.object === "whole" ? "whole" : this.maskOf(picture).isEmpty ? null : "marked";
    this.sending = this.sending.then(() => this.attempt(() => this.tab.sendObject(picture, runs)));
    this.gallery.update(picture);
    this.updateReady();
    if (picture === this.current) this.resultChanged();
  }

  // --- results

  strengthChanged() {
    this.describeStrength();
    this.updateReady();
    if (this.current) this.resultChanged();
  }

  resultChanged() {
    this.version += 1;
    this.updateVerdict();
    this.viewChanged();
  }

  address(rest) {
    return this.tab.of(this.current, `/${rest}strength=${chosen("strength")}`);
  }

  async updateVerdict() {
    const { current, version } = this;
    if (!current.object) {
      showVerdict(null);
      return;
    }
    byId("get-png").href = this.address("protected.png?download&");
    byId("get-webp").href = this.address("protected.webp?download&");
    byId("get-mask").href = this.tab.of(current, "/mask.png");
    await this.sending;
    if (version !== this.version || current !== this.current) return;
    const isStill = () => version === this.version && current === this.current;
    const found = await this.attempt(() => this.tab.verdict(current, chosen("strength")));
    if (!isStill()) return;
    showVerdict(found);
    // Takes the server a second or more: only once the drawing rests.
    await new Promise((resolve) => setTimeout(resolve, RESTS));
    if (!found || !isStill()) return;
    const seen = await this.attempt(() => this.tab.looks(current, chosen("strength")));
    if (isStill()) showLooks(seen);
  }

  async viewChanged() {
    const view = chosen("view");
    const { current, version } = this;
    this.stage.setView(view);
    byId("tools").hidden = view !== "object";
    byId("slider-row").hidden = view !== "compare";
    this.tools.help();
    if (view === "object") return undefined;
    if (!current.object) {
      document.querySelector('input[name="view"][value="object"]').checked = true;
      this.tell("Mark an object first.");
      return this.viewChanged();
    }
    this.divide(Number(byId("slider").value));
    this.busy("Adding the noise…");
    await this.sending;
    if (version === this.version && current === this.current) {
      const [layer, file] = view === "compare" ? ["protected", "protected.png?"] : ["noise", "noise.png?"];
      await this.attempt(() => this.stage.load(layer, `${this.address(file)}&version=${version}`));
    }
    this.busy(null);
    return undefined;
  }

  divide(share) {
    const kept = Math.min(100, Math.max(0, share));
    byId("slider").value = kept;
    this.stage.divide(kept);
  }

  made(making) {
    const others = new Map(making.others.map((other) => [other.name, other.status]));
    for (const picture of this.pictures.values()) {
      if (picture.object) this.gallery.update(picture, others.get(picture.name) ?? (picture.object === "whole" ? "noise, whole image" : "protected"));
    }
  }

  // --- what is said

  busy(words) {
    byId("busy").textContent = words ?? "";
    byId("busy").hidden = !words;
    if (words) say(words);
  }

  tell(line) {
    byId("trouble").textContent = line ?? "";
    byId("trouble").hidden = !line;
  }

  /** Returns what an action comes to; null, with its line on the page, where it fails. */
  async attempt(action) {
    try {
      const done = await action();
      this.tell(null);
      return done;
    } catch (error) {
      this.tell(error.message);
      return null;
    }
  }
}

Tab.open().then(
  (tab) => new Page(tab),
  (error) => document.querySelector("main").prepend(element("p", { class: "trouble", role: "alert" }, error.message)),
);
