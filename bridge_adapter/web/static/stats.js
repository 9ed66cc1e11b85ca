/** The figures of one answer: how fast, how many tokens, how it ended. */
import { timeToFirst, tokensPerSecond } from "./answer.js";
import { element } from "./element.js";

export function stats({ state, error, answer }) {
  const { usage, finishReason, requestId } = answer;
  const first = timeToFirst(answer);
  const speed = tokensPerSecond(answer);
  const ended =
    finishReason ??
    { running: null, stopped: "stopped by you", failed: error?.status ? "refused" : "broken off" }[state];
  const facts = [
    [
      "TTFT",
      first === null ? null : first < 1 ? `${Math.round(first * 1000)} ms` : `${first.toFixed(2)} s`,
      "Time to first token",
    ],
    ["Speed", speed === null ? null : `${speed.toFixed(1)} tok/s`, "Tokens a second after the first"],
    [
      "Prompt",
      usage && tokens(usage.prompt_tokens, usage.prompt_tokens_details?.cached_tokens),
      "Prompt tokens, and how many of them were cached",
    ],
    ["Answer", usage && `${usage.completion_tokens} tok`, "Completion tokens"],
    ["Finish", ended, "finish_reason"],
    ["Request", requestId, "x-request-id"],
  ];
  return element(
    "dl",
    { class: "stats" },
    facts
      .filter(([, value]) => value)
      .map(([name, value, title]) =>
        element("div", { title, "data-fact": name.toLowerCase() }, element("dt", {}, name), element("dd", {}, value)),
      ),
  );
}

function tokens(prompt, cached) {
  return `${prompt} tok${typeof cached === "number" ? `, ${cached} cached` : ""}`;
}
