// Numbers as people read them. What is not known is null and stays null.

const DASH = "\u2013";
const isKnown = (value) => value !== null && value !== undefined;

/** At most three digits that say something: 0.00213, 1.5, 12,345. */
function number(value) {
  if (!isKnown(value)) return null;
  if (typeof value !== "number") return String(value);
  return value.toLocaleString(
    "en-US",
    Math.abs(value) >= 100 ? { maximumFractionDigits: 0 } : { maximumSignificantDigits: 3 },
  );
}

const count = (value) => (isKnown(value) ? value.toLocaleString("en-US") : null);

/** Seconds in the units that fit: 20 ms, 1.5 s, 2 min 4 s, 1 h 40 min, 84.2 h. */
function duration(seconds) {
  if (!isKnown(seconds)) return null;
  const size = Math.abs(seconds);
  if (size > 0 && size < 0.1) return `${number(seconds * 1000)} ms`;
  if (size < 100) return `${number(seconds)} s`;
  if (size >= 10 * 3600) return `${number(seconds / 3600)} h`;
  const minutes = Math.round(seconds) / 60;
  if (minutes < 60) return `${Math.floor(minutes)} min ${Math.round(seconds) % 60} s`;
  return `${Math.floor(minutes / 60)} h ${Math.floor(minutes % 60)} min`;
}

function bytes(value) {
  if (!isKnown(value)) return null;
  const units = ["B", "kB", "MB", "GB", "TB", "PB", "EB"];
  const power = value > 0 ? Math.min(Math.floor(Math.log10(value) / 3), units.length - 1) : 0;
  return `${number(value / 1000 ** power)} ${units[power]}`;
}

const percent = (value) => (isKnown(value) ? `${number(Math.round(value * 1000) / 10)} %` : null);

/** Seconds since 1970 as 2026-11-22 02:07 UTC. */
function moment(epoch_s) {
  if (!isKnown(epoch_s)) return null;
  const iso = new Date(epoch_s * 1000).toISOString();
  return element("time", { datetime: iso }, `${iso.slice(0, 10)} ${iso.slice(11, 16)} UTC`);
}

/** A time within a video: 0:07.58 or 1:02:03.40. */
function timecode(seconds) {
  const hundredths = Math.round(seconds * 100);
  const [hours, minutes] = [Math.floor(hundredths / 360000), Math.floor(hundredths / 6000) % 60];
  const rest = ((hundredths % 6000) / 100).toFixed(2).padStart(5, "0");
  return hours ? `${hours}:${String(minutes).padStart(2, "0")}:${rest}` : `${minutes}:${rest}`;
}

const span = ([start_s, end_s]) => `${timecode(start_s)} ${DASH} ${timecode(end_s)}`;
const words = (name) => name.replaceAll("_", " ");
