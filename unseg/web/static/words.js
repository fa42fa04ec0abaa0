// What is said to people: by the live region to those who listen, and in the same words on the page.

const live = document.getElementById("live");

/** Says a sentence to screen readers. */
export function say(text) {
  live.textContent = "";
  // A region that changes twice at once is read once at best.
  setTimeout(() => (live.textContent = text), 50);
}

/** Returns seconds as people say them. */
export function timeLeft(seconds) {
  if (seconds === null || !Number.isFinite(seconds)) return "";
  if (seconds < 1.5) return "about a second left";
  if (seconds < 90) return `about ${Math.round(seconds)} s left`;
  return `about ${Math.round(seconds / 60)} min left`;
}

/** Shows how far something is: a bar, and words such as "Reading 3 of 12, about 20 s left". */
export class Progress {
  constructor(name) {
    this.row = document.getElementById(`${name}-progress`);
    this.bar = document.getElementById(`${name}-bar`);
    this.words = document.querySelector(`label[for="${name}-bar"]`);
  }

  show(what, done, total, secondsLeft) {
    this.row.hidden = false;
    this.bar.max = Math.max(total, 1);
    this.bar.value = done;
    const left = timeLeft(secondsLeft);
    const rest = left ? `, ${left}` : "";
    this.words.textContent = total ? `${what} ${Math.min(done + 1, total)} of ${total}${rest}` : `${what}…`;
  }

  hide() {
    this.row.hidden = true;
  }
}

/** Returns an element with attributes and content, which is never read as HTML. */
export function element(kind, attributes = {}, ...content) {
  const made = document.createElement(kind);
  for (const [name, value] of Object.entries(attributes)) {
    if (name === "class") made.className = value;
    else if (name in made) made[name] = value;
    else made.setAttribute(name, value);
  }
  made.append(...content);
  return made;
}
