/**
 * A block of code with its language, a copy button and, once it is complete, colours.
 * The highlighter is loaded when first needed.
 */
import { copyButton } from "./clipboard.js";
import { element } from "./element.js";

const LANGUAGES = `bash c cpp csharp css diff dockerfile go ini java javascript json kotlin makefile markdown php python
  ruby rust sql swift typescript xml yaml`.split(/\s+/);
const ALIASES = {
  "c#": "csharp",
  "c++": "cpp",
  console: "bash",
  cs: "csharp",
  docker: "dockerfile",
  golang: "go",
  html: "xml",
  js: "javascript",
  jsonc: "json",
  jsx: "javascript",
  kt: "kotlin",
  make: "makefile",
  md: "markdown",
  py: "python",
  python3: "python",
  rb: "ruby",
  rs: "rust",
  sh: "bash",
  shell: "bash",
  svg: "xml",
  toml: "ini",
  ts: "typescript",
  tsx: "typescript",
  yml: "yaml",
  zsh: "bash",
};
const LONGEST = 50_000;
const COLOURS = { ALLOWED_TAGS: ["span"], ALLOWED_ATTR: ["class"], RETURN_DOM_FRAGMENT: true };

export function codeBlock(text, language, complete) {
  const code = element("code", {}, text);
  if (complete) colour(code, text, language);
  return element(
    "figure",
    { class: "code" },
    element(
      "figcaption",
      {},
      element("span", {}, language || "text"),
      copyButton(() => text, "Copy code"),
    ),
    element("pre", { tabindex: "0", role: "region", "aria-label": `Code${language && `, ${language}`}` }, code),
  );
}

async function colour(code, text, language) {
  const name = language.toLowerCase();
  const known = ALIASES[name] ?? name;
  if (!LANGUAGES.includes(known) || text.length > LONGEST) return;
  const [{ default: highlighter }, { default: grammar }] = await Promise.all([
    import("./vendor/highlight/core.js"),
    import(`./vendor/highlight/languages/${known}.js`),
  ]);
  if (!highlighter.getLanguage(known)) highlighter.registerLanguage(known, grammar);
  code.replaceChildren(globalThis.DOMPurify.sanitize(highlighter.highlight(text, { language: known }).value, COLOURS));
}
