// The gallery: search, filters and order over the sampled clips.

const NUM_CARDS_AT_ONCE = 24;

class Gallery {
  constructor(clips, numSampledFrom) {
    this.clips = clips.map((clip) => ({ clip, text: searchText(clip), values: sortValues(clip) }));
    this.section = document.getElementById("clips");
    this.num = element("p", { class: "count", role: "status" });
    this.none = element("p", { class: "notice", hidden: true });
    const cards = element("div", { class: "cards" });
    this.reset = element(
      "button",
      { type: "button", class: "quiet", hidden: true, onclick: () => this.clear() },
      "Clear filters",
    );
    const heading = element(
      "div",
      { class: "heading" },
      element("h2", { id: "clips-title" }, "Clips"),
      this.num,
      this.sampled(numSampledFrom),
      this.reset,
    );
    this.section.append(heading, this.tools(), this.none, cards);
    const make = (each) => clipCard(each.clip, this.query);
    this.list = new GrowingList(cards, { size: NUM_CARDS_AT_ONCE, make, what: "clips" });
    this.restore();
    window.addEventListener("hashchange", () => this.restore());
  }

  sampled(numSampledFrom) {
    if (!isKnown(numSampledFrom) || numSampledFrom <= this.clips.length) return null;
    return element("p", { class: "muted" }, `sampled from ${count(numSampledFrom)} of the run`);
  }

  tools() {
    const change = (name) => (value) => {
      choices.write({ [name]: value });
      this.apply();
    };
    const selects = this.filters().map(([label, name, options]) => choice(label, name, options, change(name)));
    const search = searchField("Search", "q", "Words, in any order (press /)", change("q"));
    this.form = element(
      "form",
      {
        class: "tools panel",
        role: "search",
        "aria-label": "Clips",
        hidden: !this.clips.length,
        onsubmit: (event) => event.preventDefault(),
      },
      search,
      selects,
    );
    return this.form;
  }

  /** What can be chosen, but where there is only one thing to choose: [label, name, options]. */
  filters() {
    const counted = (value) => this.counts(value).map(([name, num]) => [name, `${words(name)} (${num})`]);
    const [status, filter, size] = [counted(statusOf), counted(filterOf), counted(sizeOf)];
    return [
      status.length > 1 ? ["Status", "status", [["", "all"], ...status]] : null,
      filter.length ? ["Rejected by", "filter", [["", "any or none"], ...filter]] : null,
      size.length > 1 ? ["Resolution", "size", [["", "all"], ...size]] : null,
      ["Sort by", "sort", [["", "as sampled"], ...this.sortNames().map((name) => [name, name])]],
      [
        "Order",
        "order",
        [
          ["", "highest first"],
          ["up", "lowest first"],
        ],
      ],
    ].filter((each) => each !== null);
  }

  /** The values that occur, the most frequent first. */
  counts(value) {
    const counted = new Map();
    for (const { clip } of this.clips) {
      const found = value(clip);
      if (found !== null) counted.set(found, (counted.get(found) ?? 0) + 1);
    }
    return [...counted].sort(([, left], [, right]) => right - left);
  }

  sortNames() {
    return [...new Set(this.clips.flatMap((each) => Object.keys(each.values)))];
  }

  clear() {
    choices.write({ q: "", status: "", filter: "", size: "" });
    this.restore();
    this.form.elements.q.focus();
  }

  /** Set the form by the address. What the report does not have is not chosen. */
  restore() {
    const chosen = choices.read();
    for (const field of this.form.elements) {
      if (!field.name) continue;
      field.value = chosen[field.name] ?? "";
      if (field.value === "" && field.tagName === "SELECT") field.selectedIndex = 0;
    }
    this.apply();
  }

  apply() {
    const wanted = (name) => this.form.elements[name]?.value ?? "";
    this.query = new Query(wanted("q"));
    const fits = ({ clip, text }) =>
      [
        ["status", statusOf],
        ["filter", filterOf],
        ["size", sizeOf],
      ].every(([name, value]) => !wanted(name) || value(clip) === wanted(name)) && this.query.matches(text);
    const found = sorted(this.clips.filter(fits), wanted("sort"), wanted("order") === "up");
    this.list.show(found);
    this.say(
      found.length,
      ["q", "status", "filter", "size"].some((name) => wanted(name)),
    );
  }

  say(num, isFiltered) {
    this.num.textContent = this.clips.length ? `${count(num)} of ${count(this.clips.length)} shown` : "";
    this.reset.hidden = !isFiltered;
    this.none.hidden = num > 0;
    this.none.textContent = this.clips.length
      ? "No clip fits. Take a word or a filter away."
      : "There are no clips to show.";
  }
}

const statusOf = (clip) => clip.status;
const filterOf = (clip) => clip.rejection?.filter ?? null;
const sizeOf = (clip) => (isKnown(clip.width) ? `${clip.width}x${clip.height}` : null);

function sortValues(clip) {
  const measured = [...flat(clip.scores), ...flat(clip.text_match, "text match ")];
  return Object.fromEntries(
    [["duration", clip.duration_s], ...measured].filter(([, value]) => typeof value === "number"),
  );
}

/** By one value; clips that do not have it come last. */
function sorted(clips, name, isUp) {
  if (!name) return clips;
  const [having, rest] = [clips.filter((each) => name in each.values), clips.filter((each) => !(name in each.values))];
  const sign = isUp ? 1 : -1;
  return [...having.sort((left, right) => sign * (left.values[name] - right.values[name])), ...rest];
}
