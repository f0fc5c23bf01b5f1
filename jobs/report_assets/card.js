// One clip as a card: its previews, what was written about it, and what was measured.

/** All texts about a clip: [version, captioner, text] of one window, in the order of the report. */
function captionsOf(window_) {
  return Object.entries(window_.captions ?? {}).flatMap(([version, texts]) =>
    Object.entries(texts ?? {}).map(([captioner, text]) => [version, captioner, String(text ?? "")]),
  );
}

const STATUS = { kept: ["Kept", "ok"], rejected: ["Rejected", "warn"], error: ["Error", "bad"] };
const NUM_LETTERS_FOLDED = 360;

function clipCard(clip, query) {
  const versions = new Set(
    clip.windows.flatMap((each) => captionsOf(each).map(([version, captioner]) => version + captioner)),
  );
  const size = isKnown(clip.width) ? `${clip.width}\u00d7${clip.height}` : null;
  const name = `clip-${clip.uuid}`;
  return element(
    "article",
    { class: versions.size > 1 ? "card panel broad" : "card panel", "aria-labelledby": name, "data-uuid": clip.uuid },
    windowsOf(clip, query),
    element(
      "div",
      { class: "card-body" },
      element(
        "p",
        { class: "facts" },
        badge(...(STATUS[clip.status] ?? [clip.status, "warn"])),
        [duration(clip.duration_s), size].filter(isKnown).map((fact) => element("span", {}, fact)),
      ),
      verdicts(clip, query),
      element(
        "p",
        { class: "source" },
        pathParts(query.marked(String(clip.source))),
        " ",
        element("span", { class: "muted nowrap" }, span(clip.span)),
      ),
      scoresOf(clip),
      element(
        "p",
        { class: "card-foot" },
        element("code", { id: name, title: clip.uuid }, query.marked(clip.uuid)),
        copyButton(clip.uuid, `Copy the uuid ${clip.uuid}`),
        safeHref(clip.clip_href)
          ? element("a", { href: clip.clip_href, target: "_blank", rel: "noopener" }, "Open clip")
          : null,
      ),
    ),
  );
}

/** The window that is looked at: the first one that the search is about, and buttons for the others. */
function windowsOf(clip, query) {
  const box = element("div", { class: "windows" });
  const found = clip.windows.findIndex((each) => captionsOf(each).some(([, , text]) => query.touches(text)));
  const show = (index) => {
    const buttons = clip.windows.length > 1 ? windowButtons(clip, index, show) : null;
    const hadFocus = box.contains(document.activeElement);
    box.replaceChildren(
      ...[preview(clip, index), buttons, captionTexts(clip.windows[index], query)].filter((part) => part !== null),
    );
    if (hadFocus) box.querySelector("[aria-pressed=true]")?.focus();
  };
  if (clip.windows.length) show(Math.max(found, 0));
  return box;
}

function windowButtons(clip, shown, show) {
  const { start_frame, end_frame } = clip.windows[shown];
  const button = (_, index) =>
    element(
      "button",
      {
        type: "button",
        "aria-pressed": String(index === shown),
        "aria-label": `Window ${index + 1}`,
        onclick: () => show(index),
      },
      String(index + 1),
    );
  return element(
    "div",
    { class: "switch", role: "group", "aria-label": "Windows of the clip" },
    element("span", { class: "muted" }, "Window"),
    clip.windows.map(button),
    element("span", { class: "muted" }, `frames ${start_frame}${DASH}${end_frame}`),
  );
}

function preview(clip, index) {
  const source = clip.windows[index].preview;
  if (!source?.startsWith("data:image/")) return null;
  const about = `Preview of window ${index + 1} of ${clip.windows.length} of clip ${clip.uuid}`;
  const image = element("img", { alt: about, loading: "lazy", decoding: "async" });
  image.src = source;
  const fits = Math.abs((clip.width * 9) / (clip.height * 16) - 1) < 0.03; // no dark line for a pixel more or less
  return element("div", { class: fits ? "preview fits" : "preview" }, image);
}

function captionTexts(window_, query) {
  const captions = captionsOf(window_);
  if (!captions.length) return null;
  return element(
    "div",
    { class: "captions" },
    captions.map(([version, captioner, text]) =>
      element(
        "div",
        { class: "caption" },
        element("h4", {}, element("span", { class: "version" }, version), captioner),
        text === "" ? element("p", { class: "muted" }, "Empty") : folded(text, query),
      ),
    ),
  );
}

/** A text that is long shows its beginning, unless one searches in it. */
function folded(text, query) {
  const paragraph = element("p", { dir: "auto", class: "text" }, query.marked(text));
  if (text.length <= NUM_LETTERS_FOLDED || query.touches(text)) return paragraph;
  paragraph.classList.add("folded");
  const unfold = element("button", { type: "button", class: "quiet", "aria-expanded": "false" }, "Show all");
  unfold.addEventListener("click", () => {
    const isFolded = paragraph.classList.toggle("folded");
    unfold.textContent = isFolded ? "Show all" : "Show less";
    unfold.setAttribute("aria-expanded", String(!isFolded));
  });
  return [paragraph, unfold];
}

/** A path that is broken between its parts where it has no room. */
function pathParts(nodes) {
  return nodes.flatMap((node) =>
    typeof node === "string"
      ? node.split(/(?<=\/)/u).flatMap((part, index) => (index ? [element("wbr"), part] : [part]))
      : [node],
  );
}

function rejectionText({ filter, measure, limit }) {
  const said = [
    isKnown(measure) ? `measured ${number(measure)}` : null,
    isKnown(limit) ? `limit ${number(limit)}` : null,
  ];
  return `Rejected by ${words(filter)}: ${said.filter(isKnown).join(", ") || "no measure"}`;
}

const errorTexts = (clip) => Object.entries(clip.errors ?? {}).map(([name, text]) => `${name}: ${text}`);

function verdicts(clip, query) {
  const lines = [
    ...(clip.rejection ? [["verdict warn", rejectionText(clip.rejection)]] : []),
    ...errorTexts(clip).map((text) => ["verdict bad", text]),
  ];
  return lines.map(([look, text]) => element("p", { class: look }, query.marked(text)));
}

/** Everything measured, also what lies deeper: {text_match: {text, probability}}. */
function flat(values, prefix = "") {
  return Object.entries(values ?? {}).flatMap(([name, value]) =>
    typeof value === "object" && value !== null ? flat(value, `${prefix}${name} `) : [[words(prefix + name), value]],
  );
}

function scoresOf(clip) {
  const known = [...flat(clip.scores), ...flat(clip.text_match, "text match ")].filter(([, value]) => isKnown(value));
  if (!known.length) return null;
  return element(
    "dl",
    { class: "scores" },
    known.map(([name, value]) => element("div", {}, element("dt", {}, name), element("dd", {}, number(value)))),
  );
}

/** All that the search looks through. */
function searchText(clip) {
  const captions = clip.windows.flatMap((each) => captionsOf(each).map(([, , text]) => text));
  const reasons = clip.rejection ? [rejectionText(clip.rejection)] : [];
  return [clip.uuid, clip.source, clip.video_id, ...captions, ...reasons, ...errorTexts(clip)]
    .join("\n")
    .normalize("NFC");
}
