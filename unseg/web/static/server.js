// What the page asks of its server. Every address is relative, and so begins with the token of the page's own.

/** Sends a request and returns the answer; an Error holds the one line that the server says when it does not serve it. */
export async function ask(path, method = "GET", body = undefined) {
  let answer;
  try {
    answer = await fetch(path, { method, body });
  } catch {
    throw new Error("the server does not answer; is `unseg web` still running?");
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => null);
    throw new Error(told?.error ?? `the server answered ${answer.status}`);
  }
  return answer;
}

/** The server's side of this tab. */
export class Tab {
  /** Opens a tab and gives signs of life for as long as the page is there. */
  static async open() {
    const facts = await (await ask("tabs", "POST")).json();
    return new Tab(facts);
  }

  constructor(facts) {
    this.facts = facts;
    this.path = `tabs/${facts.tab}`;
    setInterval(() => ask(`${this.path}/alive`, "POST").catch(() => {}), facts.beat * 1000);
    addEventListener("pagehide", () => navigator.sendBeacon(`${this.path}/close`));
    // A page that comes back out of the browser's memory has no tab on the server any more.
    addEventListener("pageshow", (event) => event.persisted && location.reload());
  }

  async addPicture(file, name) {
    return (await ask(`${this.path}/pictures?name=${encodeURIComponent(name)}`, "POST", file)).json();
  }

  async addArchive(file, name) {
    return (await ask(`${this.path}/archives?name=${encodeURIComponent(name)}`, "POST", file)).json();
  }

  remove(picture) {
    return ask(this.of(picture), "DELETE");
  }

  /** Returns where everything of a picture is. */
  of(picture, rest = "") {
    return `${this.path}/pictures/${picture.id}${rest}`;
  }

  /** Returns what GrabCut finds in a box, [x1, y1, x2, y2]: runs of pixels, and whether the box was filled instead. */
  async outline(picture, box) {
    const answer = await ask(this.of(picture, "/outline"), "POST", JSON.stringify({ box }));
    return { runs: new Uint32Array(await answer.arrayBuffer()), filled: answer.headers.get("unseg-outline") === "filled" };
  }

  /** Returns the objects that `--masks auto` finds: runs of pixels, numbered from 1. */
  async proposals(picture) {
    return new Uint32Array(await (await ask(this.of(picture, "/objects"), "POST")).arrayBuffer());
  }

  /** Sends the objects of a picture; without runs, all of it is the object. */
  async sendObject(picture, runs) {
    return (await ask(this.of(picture, runs ? "/object" : "/object?whole=1"), "PUT", runs)).json();
  }

  async verdict(picture, strength) {
    return (await ask(this.of(picture, `/verdict?strength=${strength}`))).json();
  }

  async looks(picture, strength) {
    return (await ask(this.of(picture, `/looks?strength=${strength}`))).json();
  }

  async makeFiles(strength, format) {
    return (await ask(`${this.path}/files`, "POST", JSON.stringify({ strength, format }))).json();
  }

  async making() {
    return (await ask(`${this.path}/files`)).json();
  }
}
