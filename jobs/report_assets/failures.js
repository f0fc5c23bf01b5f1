// What failed, why, where its log is, and the command that tries again.

const NUM_ROWS_AT_ONCE = 100;

class Failures {
  constructor(failures, firstErrors, numFailed) {
    this.failures = failures.map((failure) => ({ failure, text: failureText(failure) }));
    this.section = document.getElementById("failures");
    this.section.hidden = !failures.length && !firstErrors.length;
    if (this.section.hidden) return;
    this.num = element("p", { class: "count", role: "status" });
    const listed =
      failures.length < numFailed ? element("p", { class: "muted" }, `of the run's ${count(numFailed)}`) : null;
    const heading = element(
      "div",
      { class: "heading" },
      element("h2", { id: "failures-title" }, "Failures"),
      this.num,
      listed,
    );
    this.section.append(...[heading, firstErrorsList(firstErrors)].filter((part) => part !== null));
    if (failures.length) this.showTable();
  }

  showTable() {
    this.none = element("p", { class: "notice", hidden: true }, "No failure fits. Take a word or the reason away.");
    const body = element("tbody");
    const head = ["Video", "Reason", "Message", "Log", "Try again"].map((name) =>
      element("th", { scope: "col" }, name),
    );
    const table = element(
      "table",
      { class: "failures" },
      element("caption", { class: "offscreen" }, "Videos that failed"),
      element("thead", {}, element("tr", {}, head)),
      body,
    );
    const box = element("div", { class: "panel scroll" }, table);
    this.section.append(this.tools(), this.none, box);
    this.list = new GrowingList(body, {
      size: NUM_ROWS_AT_ONCE,
      make: (each) => failureRow(each.failure, this.query),
      what: "failures",
    });
    box.after(this.list.button); // a table holds rows only
    this.box = box;
    this.restore();
    window.addEventListener("hashchange", () => this.restore());
  }

  tools() {
    const counted = new Map();
    for (const { failure } of this.failures) counted.set(failure.reason, (counted.get(failure.reason) ?? 0) + 1);
    const reasons = [...counted].sort(([, left], [, right]) => right - left);
    const change = (name) => (value) => {
      choices.write({ [name]: value });
      this.apply();
    };
    this.form = element(
      "form",
      { class: "tools panel", role: "search", "aria-label": "Failures", onsubmit: (event) => event.preventDefault() },
      searchField("Search", "failed", "Words, in any order", change("failed")),
      choice(
        "Reason",
        "reason",
        [["", "all"], ...reasons.map(([name, num]) => [name, `${words(name)} (${num})`])],
        change("reason"),
      ),
    );
    return this.form;
  }

  restore() {
    const chosen = choices.read();
    this.form.elements.failed.value = chosen.failed ?? "";
    this.form.elements.reason.value = chosen.reason ?? "";
    if (this.form.elements.reason.selectedIndex < 0) this.form.elements.reason.selectedIndex = 0;
    this.apply();
  }

  apply() {
    const { failed, reason } = this.form.elements;
    this.query = new Query(failed.value);
    const fits = ({ failure, text }) => (!reason.value || failure.reason === reason.value) && this.query.matches(text);
    const found = this.failures.filter(fits);
    this.list.show(found);
    this.num.textContent = `${count(found.length)} of ${count(this.failures.length)} shown`;
    this.none.hidden = found.length > 0;
    this.box.hidden = found.length === 0;
  }
}

function failureText(failure) {
  return [failure.video_id, failure.reason, words(failure.reason), failure.message, failure.log]
    .filter(isKnown)
    .join("\n")
    .normalize("NFC");
}

function failureRow(failure, query) {
  const cell = (label, ...content) => element("td", { "data-label": label }, content);
  return element(
    "tr",
    {},
    cell("Video", query.marked(failure.video_id)),
    cell("Reason", element("span", { class: "badge bad" }, query.marked(words(failure.reason)))),
    cell("Message", query.marked(failure.message ?? "")),
    cell("Log", logLink(failure)),
    cell(
      "Try again",
      failure.retry
        ? element(
            "div",
            { class: "command" },
            element("code", {}, failure.retry),
            copyButton(failure.retry, "Copy the command"),
          )
        : DASH,
    ),
  );
}

function logLink(failure) {
  if (!failure.log) return DASH;
  const text = isKnown(failure.line) ? `${failure.log}:${failure.line}` : failure.log;
  const href = safeHref(failure.log_href);
  return href ? element("a", { href, target: "_blank", rel: "noopener" }, text) : element("code", {}, text);
}

function firstErrorsList(texts) {
  if (!texts.length) return null;
  return element(
    "div",
    { class: "first-errors" },
    element("h3", {}, "First errors"),
    texts.map((text) => element("pre", { class: "panel", tabindex: "0" }, text)),
  );
}
