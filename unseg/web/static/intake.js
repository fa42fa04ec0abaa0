// How pictures come in: dropped or chosen files, folders with all that lies in them, and zips; one after the other.

import { element, Progress, say } from "./words.js";

const ARCHIVE = /\.zip$/i;
const HIDDEN = /(^|\/)\./;

/** Returns the files of a drop, each with its name relative to what was dropped. */
async function dropped(transfer) {
  // The entries must be taken at once: after the first wait the browser has emptied the list.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return chosen(transfer.files);
  const found = [];
  for (const entry of entries) await walk(entry, found);
  return found;
}

async function walk(entry, found) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
    found.push({ file, name: entry.fullPath.replace(/^\/+/, "") });
    return;
  }
  const reader = entry.createReader();
  for (;;) {
    // A reader gives a hundred at a time, and none at the end.
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return;
    for (const inner of some) await walk(inner, found);
  }
}

function chosen(files) {
  return [...files].map((file) => ({ file, name: file.webkitRelativePath || file.name }));
}

/** Takes files from the page's drop zone and its two inputs, and sends them to the server. */
export class Intake {
  /** took: is called with each picture that the server has taken. */
  constructor(tab, took) {
    this.tab = tab;
    this.took = took;
    this.progress = new Progress("intake");
    this.waiting = [];
    this.isRunning = false;
    this.leftOut = [];
    this.suffix = new RegExp(`(${tab.facts.suffixes.map((suffix) => suffix.replace(".", "\\.")).join("|")})$`, "i");
    this.listen();
  }

  listen() {
    const zone = document.getElementById("drop");
    // Files that miss the zone are taken, too: the browser would leave the page to show them.
    document.addEventListener("dragover", (event) => {
      event.preventDefault();
      zone.classList.add("over");
    });
    document.addEventListener("dragleave", (event) => event.relatedTarget || zone.classList.remove("over"));
    document.addEventListener("drop", async (event) => {
      event.preventDefault();
      zone.classList.remove("over");
      this.add(await dropped(event.dataTransfer));
    });
    for (const what of ["files", "folder"]) {
      const input = document.getElementById(`${what}-input`);
      document.getElementById(`choose-${what}`).addEventListener("click", () => input.click());
      input.addEventListener("change", () => {
        this.add(chosen(input.files));
        input.value = "";
      });
    }
  }

  async add(files) {
    const visible = files.filter(({ name }) => !HIDDEN.test(name));
    for (const { file, name } of visible) {
      const reason = this.refusal(file, name);
      if (reason) this.leave(name, reason);
      else this.waiting.push({ file, name });
    }
    if (!this.isRunning) await this.run();
  }

  /** Returns why a file is not even sent; the server looks at the content of all others. */
  refusal(file, name) {
    if (!ARCHIVE.test(name) && !this.suffix.test(name)) return "is no picture";
    const most = this.tab.facts.most_bytes[ARCHIVE.test(name) ? "archive" : "image"];
    return file.size > most ? `is over ${Math.round(most / 1e6)} MB` : null;
  }

  async run() {
    this.isRunning = true;
    const started = performance.now();
    let sent = 0;
    let pictures = 0;
    for (let done = 0; this.waiting.length; done++) {
      const { file, name } = this.waiting.shift();
      const left = this.waiting.reduce((sum, next) => sum + next.file.size, file.size);
      const seconds = sent ? ((performance.now() - started) / 1000 / sent) * left : null;
      this.progress.show("Reading", done, done + 1 + this.waiting.length, seconds);
      pictures += await this.send(file, name);
      sent += file.size;
    }
    this.progress.hide();
    this.isRunning = false;
    const others = this.leftOut.length ? `, ${this.leftOut.length} left out` : "";
    say(`${pictures} ${pictures === 1 ? "picture" : "pictures"} taken${others}.`);
  }

  async send(file, name) {
    try {
      if (!ARCHIVE.test(name)) {
        this.took(await this.tab.addPicture(file, name));
        return 1;
      }
      const { pictures, left_out } = await this.tab.addArchive(file, name);
      pictures.forEach((picture) => this.took(picture));
      left_out.forEach((other) => this.leave(other.name, other.reason));
      return pictures.length;
    } catch (error) {
      this.leave(name, error.message.replace(`${name}: `, ""));
      return 0;
    }
  }

  leave(name, reason) {
    this.leftOut.push(name);
    document.getElementById("left-out").hidden = false;
    document.getElementById("left-out-title").textContent = `Left out: ${this.leftOut.length}`;
    document.getElementById("left-out-list").append(element("li", {}, `${name}: ${reason}`));
  }
}
