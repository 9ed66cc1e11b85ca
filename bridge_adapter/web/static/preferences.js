/** What the user has set, kept in this browser: settings A and B, comparing or not, the theme. Never the key. */
import { defaultSettings } from "./settings.js";

const NAME = "truss-openai-bridge/preferences";

export class Preferences extends EventTarget {
  constructor(storage) {
    super();
    this.storage = storage;
    const kept = read(storage);
    this.sides = { A: merged(kept.sides?.A), B: merged(kept.sides?.B) };
    this.compare = kept.compare === true;
    this.theme = ["light", "dark"].includes(kept.theme) ? kept.theme : "system";
  }

  /** The settings in use: one, or two while comparing. */
  get settings() {
    return this.compare ? [this.sides.A, this.sides.B] : [this.sides.A];
  }

  change(change) {
    change(this);
    const { sides, compare, theme } = this;
    this.storage.setItem(NAME, JSON.stringify({ sides, compare, theme }));
    this.dispatchEvent(new Event("change"));
  }
}

function read(storage) {
  try {
    return JSON.parse(storage.getItem(NAME)) ?? {};
  } catch {
    return {};
  }
}

// Settings kept by an older page may lack fields or hold other types; those fall back one by one.
function merged(kept) {
  const settings = defaultSettings();
  for (const [name, value] of Object.entries(settings)) {
    if (typeof kept?.[name] === typeof value && Array.isArray(kept[name]) === Array.isArray(value))
      settings[name] = kept[name];
  }
  return settings;
}
