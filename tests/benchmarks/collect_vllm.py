"""vLLM's part of `collect.py`: reads a JSON file of prompts, writes answers and seconds into it."""

import json
import sys
import time
from pathlib import Path


def main(file: Path) -> None:
    """Greedy answers, and options by the log-probs of prompts that end in them."""
    from vllm import LLM, SamplingParams

    work = json.loads(file.read_text())
    most = max(
        [len(prompt) + work["answer_length"] for prompt in work["prompts"].values()]
        + [len(p) + max(map(len, options)) for p, options in work["options"].values()]
    )
    model = LLM(
        model=work["folder"], dtype="float32", enforce_eager=True, max_num_seqs=work["size"],
        max_model_len=most + 1, skip_tokenizer_init=True, gpu_memory_utilization=0.3,
    )  # fmt: skip
    writing = SamplingParams(
        temperature=0, max_tokens=work["answer_length"], stop_token_ids=[work["eos_id"]],
        ignore_eos=True, detokenize=False,
    )  # fmt: skip
    scoring = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=1, detokenize=False)
    prompts, settings, names = [], [], []
    for row, prompt in work["prompts"].items():
        prompts.append({"prompt_token_ids": prompt})
        settings.append(writing)
        names.append((row, None))
    for row, (prompt, options) in work["options"].items():
        for k, option in enumerate(options):
            prompts.append({"prompt_token_ids": prompt + option})
            settings.append(scoring)
            names.append((row, k))
    model.generate(prompts[:1], SamplingParams(max_tokens=2, detokenize=False), use_tqdm=False)
    start = time.perf_counter()
    outputs = model.generate(prompts, settings, use_tqdm=False)
    seconds = time.perf_counter() - start
    answers, scores = {}, {}
    for (row, k), output in zip(names, outputs, strict=True):
        if k is None:
            answers[row] = list(output.outputs[0].token_ids)
            continue
        prompt, options = work["options"][row]
        places = output.prompt_logprobs[len(prompt) :]
        own = [at[i].logprob for at, i in zip(places, options[k], strict=True)]
        scores.setdefault(row, []).append(sum(own))
    answers |= {row: max(range(len(own)), key=own.__getitem__) for row, own in scores.items()}
    file.write_text(json.dumps({"answers": answers, "seconds": seconds}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
