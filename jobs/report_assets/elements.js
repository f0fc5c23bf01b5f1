// Small pieces that all parts of the page are made of. What users wrote becomes text nodes, never markup.

/** An element. Attributes that are null or false are left out, `on...` are listeners, children are nodes or text. */
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}

/** The words of a search: all have to be found, in whatever case. */
class Query {
  constructor(text) {
    this.words = text.normalize("NFC").split(/\s+/u).filter(Boolean);
    const patterns = [...this.words]
      .sort((left, right) => right.length - left.length)
      .map((word) => word.replace(/[\^$\\.*+?()[\]{}|/]/gu, "\\$&"));
    this.each = patterns.map((pattern) => new RegExp(pattern, "iu"));
    this.any = patterns.length ? new RegExp(`(${patterns.join("|")})`, "giu") : null;
  }

  matches(text) {
    return this.each.every((pattern) => pattern.test(text));
  }

  touches(text) {
    return this.each.some((pattern) => pattern.test(text));
  }

  /** The text as nodes, what is searched for within <mark>. */
  marked(text) {
    if (this.any === null) return [text];
    return text.split(this.any).map((part, index) => (index % 2 ? element("mark", {}, part) : part));
  }
}

/** A link, where the address is one that a report may lead to; null for all others, such as `javascript:`. */
function safeHref(address) {
  if (typeof address !== "string" || address === "") return null;
  try {
    return ["file:", "http:", "https:"].includes(new URL(address, document.baseURI).protocol) ? address : null;
  } catch {
    return null;
  }
}

/** A button that puts the text onto the clipboard and says so. */
function copyButton(text, label) {
  const button = element("button", { type: "button", class: "quiet", "aria-label": label, title: label }, "Copy");
  button.addEventListener("click", async () => {
    button.textContent = (await copied(text)) ? "Copied" : "Not copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
  return button;
}

async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return copiedFromField(text); // where the browser gives pages from disk no clipboard
  }
}

function copiedFromField(text) {
  const focused = document.activeElement;
  const field = element("textarea", { readonly: true, class: "offscreen" });
  field.value = text;
  document.body.append(field);
  field.select();
  const isDone = document.execCommand("copy");
  field.remove();
  focused?.focus();
  return isDone;
}

/** A labelled choice; `options` are [value, text]. */
function choice(label, name, options, onchange) {
  const select = element(
    "select",
    { name, onchange: () => onchange(select.value) },
    options.map(([value, text]) => element("option", { value }, text)),
  );
  return element("label", { class: "field" }, element("span", {}, label), select);
}

/** A labelled field to search with. */
function searchField(label, name, placeholder, oninput) {
  const input = element("input", {
    type: "search",
    name,
    placeholder,
    autocomplete: "off",
    spellcheck: "false",
    oninput: () => oninput(input.value),
  });
  return element("label", { class: "field wide" }, element("span", {}, label), input);
}

/** A list that is made as far as it is looked at: a page of thousands stays quick. */
class GrowingList {
  constructor(container, { size, make, what }) {
    Object.assign(this, { container, size, make, what, items: [], num: 0 });
    this.button = element("button", { type: "button", class: "more", onclick: () => this.grow() });
    container.after(this.button);
    const seen = (entries) => entries.some((entry) => entry.isIntersecting) && this.grow();
    new IntersectionObserver(seen, { rootMargin: "600px" }).observe(this.button);
    window.addEventListener("beforeprint", () => this.grow(this.items.length));
  }

  show(items) {
    Object.assign(this, { items, num: 0 });
    this.container.replaceChildren();
    this.grow();
  }

  grow(count = this.size) {
    const next = this.items.slice(this.num, this.num + count);
    this.container.append(...next.map(this.make));
    this.num += next.length;
    const num_left = this.items.length - this.num;
    this.button.hidden = num_left === 0;
    this.button.textContent = `Show more ${this.what} (${num_left} left)`;
  }
}

/** What is chosen on the page, kept in the address so that it can be sent to others. */
const choices = {
  read: () => Object.fromEntries(new URLSearchParams(location.hash.slice(1))),
  write(changes) {
    const chosen = new URLSearchParams(location.hash.slice(1));
    for (const [name, value] of Object.entries(changes)) {
      if (value) chosen.set(name, value);
      else chosen.delete(name);
    }
    try {
      history.replaceState(null, "", `#${chosen}`);
    } catch {
      // Safari allows 100 changes in 30 s: the filters work all the same
    }
  },
};

/** Whether typing goes into a field just now. */
function isTyping(event) {
  return event.ctrlKey || event.metaKey || event.altKey || /^(input|select|textarea)$/i.test(event.target.tagName);
}
