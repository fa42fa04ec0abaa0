// What came of it: the verdict on the picture that is shown, and the files of all pictures.

import { element, Progress, say } from "./words.js";

const byId = (id) => document.getElementById(id);
const ASK_EVERY = 300; // ms
const STATES = { weak: "weak", failed: "not protected", skipped: "left out", uncoded: "unchanged" };

/** Shows what the server found about a protected picture; null: there is none yet. */
export function showVerdict(found, noObject = "Mark an object first.") {
  const status = byId("verdict-status");
  status.className = found ? found.status : "soft";
  status.textContent = found ? found.sentences[0] : noObject;
  byId("verdict").replaceChildren(...(found?.sentences.slice(1) ?? []).map((text) => element("li", {}, text)));
  const figures = byId("figures");
  figures.hidden = byId("downloads").hidden = !found;
  if (!found) return;
  const rows = [
    ["Object’s share", `${(100 * found.share).toFixed(1)} %`],
    ["Largest change", `${Number(found.largest.toFixed(2))} of 255`],
    ["PSNR", found.psnr === null ? "no change" : `${found.psnr.toFixed(1)} dB`],
  ];
  figures.replaceChildren(...asRows(rows));
}

/** Adds how much of the noise an eye can see, where the server can tell. */
export function showLooks(found) {
  if (found?.sentence === undefined) return;
  byId("verdict").append(element("li", {}, found.sentence));
  const rows = [["ΔE2000", found.delta_e.toFixed(1)], ["ΔE, blurred as by the eye", found.s_cielab.toFixed(1)]];
  byId("figures").append(...asRows(rows));
}

function asRows(rows) {
  return rows.flatMap(([name, value]) => [element("dt", {}, name), element("dd", {}, value)]);
}

/** The third step: makes the files of all pictures that have an object, and offers them. */
export class Files {
  /** settings: returns {strength, format}. made: is called with what became of the pictures. */
  constructor(tab, settings, made) {
    Object.assign(this, { tab, settings, made });
    this.progress = new Progress("files");
    byId("make").addEventListener("click", () => this.make());
    byId("get-public").href = `${tab.path}/protected.zip`;
    byId("get-private").href = `${tab.path}/private.zip`;
    byId("get-key").href = `${tab.path}/key`;
  }

  /** Says how many pictures are ready. What was made before a change is no longer offered. */
  ready(count, all) {
    byId("make").disabled = count === 0 || this.isRunning;
    const without = all - count ? ` ${all - count} without an object will be left out.` : "";
    byId("files-words").textContent = count ? `${count} of ${all} ${all === 1 ? "picture" : "pictures"} ready.${without}` : "Mark an object first.";
    byId("made").hidden = true;
  }

  async make() {
    const { strength, format } = this.settings();
    this.isRunning = true;
    byId("make").disabled = true;
    byId("files-trouble").hidden = byId("made").hidden = true;
    try {
      let making = await this.tab.makeFiles(strength, format);
      while (making.state === "running") {
        this.progress.show("Protecting", making.done, making.total, making.seconds_left);
        await new Promise((resolve) => setTimeout(resolve, ASK_EVERY));
        making = await this.tab.making();
      }
      if (making.error) throw new Error(making.error);
      this.offer(making);
    } catch (error) {
      byId("files-trouble").textContent = error.message;
      byId("files-trouble").hidden = false;
    }
    this.progress.hide();
    this.isRunning = false;
    byId("make").disabled = false;
  }

  offer(making) {
    const whole = making.whole ? ` Noise over the whole image, in ${making.whole}, protects no object.` : "";
    const words = `${making.protected} ${making.protected === 1 ? "picture is" : "pictures are"} protected.${whole}`;
    byId("made").hidden = false;
    byId("made-words").textContent = words;
    byId("made-others").replaceChildren(
      ...making.others.map((other) => element("li", { class: "trouble" }, `${other.name}: ${STATES[other.status] ?? other.status}: ${other.reason}`)),
    );
    byId("command").textContent = making.command;
    this.made(making);
    say(`${words} The files can be downloaded.`);
    byId("get-public").focus();
  }
}
