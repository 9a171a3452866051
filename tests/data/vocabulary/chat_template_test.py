"""Chat templates: what they render, which ids that gives, how rows are cut, what is refused."""

import json
import pickle

import numpy as np
import pytest
import seqio
import tensorflow as tf
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

import tasks.c4
import tasks.demo  # noqa: F401
from cascade_jax.data import features, pipeline, token_cache
from cascade_jax.data.browse import rows
from cascade_jax.data.vocabulary import chat_template, load
from cascade_jax.data.vocabulary.tokenizer import TokenizerJsonVocabulary

pytest.importorskip("jinja2")  # pip install 'cascade-jax[chat]'

SPECIAL = ["<pad>", "<s>", "</s>", "<unk>", "<|start|>", "<|end|>", "<|header|>"]
NAMED = {"eos_token": "</s>", "bos_token": "<s>", "pad_token": "<pad>"}

# As public ones are written: ChatML, Llama 3's headers and date, Gemma's roles, Qwen 3's thinking,
# and one whose end is text alone.
CHATML = (
    "{% for message in messages %}\n"
    "    {{- '<|start|>' + message['role'] + '\\n' + message.content + '<|end|>' + '\\n' -}}\n"
    "{% endfor %}\n"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\\n' }}{% endif %}"
)
HEADERS = (
    "{{- bos_token }}{%- if not date_string is defined %}{%- if strftime_now is defined %}"
    "{%- set date_string = strftime_now('%d %b %Y') %}{%- else %}"
    "{%- set date_string = '26 Jul 2024' %}{%- endif %}{%- endif %}"
    "{{- '<|header|>system\\n\\nToday: ' + date_string + '<|end|>' }}"
    "{%- for message in messages %}{%- if message.role == 'tool' %}{%- continue %}{%- endif %}"
    "{{- '<|header|>' + message.role + '\\n\\n' + message['content'] | trim + '<|end|>' }}"
    "{%- endfor %}{%- if add_generation_prompt %}{{- '<|header|>assistant\\n\\n' }}{%- endif %}"
)
ROLES = (
    "{{ bos_token }}{% if messages[0]['role'] == 'system' %}"
    "{{ raise_exception('no system role') }}{% endif %}"
    "{% for message in messages %}"
    "{% set role = 'model' if message.role == 'assistant' else message.role %}"
    "{{ '<|start|>' + role + '\\n' + message['content'] | trim + '<|end|>\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>model\\n' }}{% endif %}"
)
THINKING = (
    "{% set ns = namespace(last=-1) %}{% for message in messages %}"
    "{% if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% if tools %}{{ tools | tojson }}{% endif %}"
    "{{ '<|start|>user\\n' + messages[ns.last].content + '<|end|>\\n' }}"
    "{% generation %}{{ '<|start|>assistant\\n' }}{% endgeneration %}"
    "{% if enable_thinking is defined and enable_thinking is false %}"
    "{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}"
)
BRACKETS = "{{ bos_token }}{% for m in messages %}[ask] {{ m.content }} [answer]{% endfor %}"
TEMPLATES = {
    "chatml": CHATML, "headers": HEADERS, "roles": ROLES, "thinking": THINKING,
    "brackets": BRACKETS,
}  # fmt: skip
TEXTS = ["the cat sat on the mat", " spaces and\nlines \n", "thé 日本語", "a <|end|> inside", "x"]


@pytest.fixture(scope="module")
def tokenizer():
    """A BPE over bytes."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=SPECIAL, show_progress=False,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    made.train_from_iterator([*TEXTS, "user assistant system model [ask] [answer] Today:"], trainer)
    return made


def write(folder, tokenizer, template=CHATML, **config):
    """A tokenizer's folder whose template is a file, or stands in tokenizer_config.json."""
    folder.mkdir(exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(NAMED | config))
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    return f"{folder}/tokenizer.json?chat_template=default"


def test_an_input_is_rendered_and_a_target_is_not(tmp_path, tokenizer):
    spec = write(tmp_path, tokenizer)
    vocabulary = load.load_vocabulary(spec)
    plain = load.load_vocabulary(spec.partition("?")[0])
    assert vocabulary.encode("the cat") == plain.encode("the cat")
    inputs = vocabulary.for_inputs()
    expected = "<|start|>user\nthe cat<|end|>\n<|start|>assistant\n"
    assert inputs.rendered("the cat") == expected
    assert inputs.encode("the cat") == plain.encode(expected)
    assert inputs.spelt(inputs.encode("the cat")) == expected
    assert pickle.loads(pickle.dumps(inputs)).encode("a b") == inputs.encode("a b")
    assert plain.for_inputs() is None


@pytest.mark.parametrize("place", ["file", "config", "list", "folder"])
def test_a_template_is_read_wherever_transformers_writes_it(place, tmp_path, tokenizer):
    other = "{{ messages[0].content }} other"
    if place == "file":  # which comes before the others
        spec = write(tmp_path, tokenizer, chat_template=other)
    elif place == "config":
        spec = write(tmp_path, tokenizer, None, chat_template=CHATML)
    elif place == "list":
        named = [{"name": "tool_use", "template": other}, {"name": "default", "template": CHATML}]
        spec = write(tmp_path, tokenizer, None, chat_template=named)
    else:
        write(tmp_path, tokenizer, other)
        (tmp_path / "additional_chat_templates").mkdir()
        (tmp_path / "additional_chat_templates/mine.jinja").write_text(CHATML)
        spec = f"{tmp_path}/tokenizer.json?chat_template=mine"
    rendered = load.load_vocabulary(spec).for_inputs().rendered("a")
    assert rendered == "<|start|>user\na<|end|>\n<|start|>assistant\n"


@pytest.mark.parametrize("name", TEMPLATES)
def test_text_and_ids_are_those_of_transformers(name, tmp_path, tokenizer):
    transformers = pytest.importorskip("transformers")
    spec = write(tmp_path, tokenizer, TEMPLATES[name])
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    ours = load.load_vocabulary(spec).for_inputs()
    for text in TEXTS:
        chat = [{"role": "user", "content": text}]
        # Today's date is what they would put into the headers, and we do not.
        options = {"add_generation_prompt": True, "date_string": "26 Jul 2024"}
        rendered = theirs.apply_chat_template(chat, tokenize=False, **options)
        assert ours.rendered(text) == rendered
        ids = theirs.apply_chat_template(chat, tokenize=True, return_dict=False, **options)
        assert ours.encode(text) == ids[ids[0] == theirs.bos_token_id :]


def test_variables_of_a_template_are_set_behind_the_path(tmp_path, tokenizer):
    spec = write(tmp_path, tokenizer, THINKING)
    rendered = load.load_vocabulary(spec).for_inputs().rendered("a")
    assert rendered == "<|start|>user\na<|end|>\n<|start|>assistant\n"
    quiet = load.load_vocabulary(f"{spec}&chat.enable_thinking=false")
    assert quiet.for_inputs().rendered("a") == f"{rendered}<think>\n\n</think>\n\n"
    dated = f'{write(tmp_path, tokenizer, HEADERS)}&chat.date_string="1 May 1990"'
    assert "Today: 1 May 1990<|end|>" in load.load_vocabulary(dated).for_inputs().rendered("a")


def test_the_template_is_part_of_the_fingerprint(tmp_path, tokenizer):
    spec = write(tmp_path, tokenizer, THINKING)
    same = write(tmp_path / "same", tokenizer, None, chat_template=THINKING)
    specs = [spec.partition("?")[0], spec, f"{spec}&chat.enable_thinking=false"]
    specs.append(write(tmp_path / "other", tokenizer))
    fingerprints = [load.fingerprint(load.load_vocabulary(each)) for each in specs]
    assert len(set(fingerprints)) == 4
    assert {chat_template.ids_part(each) for each in fingerprints} == {fingerprints[0]}
    assert [chat_template.is_marked(each) for each in fingerprints] == [False, True, True, True]
    assert load.fingerprint(load.load_vocabulary(same)) == fingerprints[1]
    inputs = load.load_vocabulary(spec).for_inputs()
    assert load.fingerprint(inputs) == fingerprints[1]
    # A special token that the template does not read changes nothing.
    named = write(tmp_path / "named", tokenizer, THINKING, unk_token="<unk>")
    assert load.fingerprint(load.load_vocabulary(named)) == fingerprints[1]


@pytest.mark.parametrize("own", [7, ["{{ x }}"], [{"name": "default"}], {"default": CHATML}])
def test_templates_of_another_form_are_refused(own, tmp_path, tokenizer):
    with pytest.raises(ValueError, match="tokenizer_config.json: chat_template is .*; must be a"):
        load.load_vocabulary(write(tmp_path, tokenizer, None, chat_template=own))


# ------------------------------------------------------------------ rows


def config_of(spec, **changes):
    settings = {"input_length": 40, "target_length": 8, "batch_size": 4, "seed": 3} | changes
    return pipeline.DataConfig("demo_last_v1", vocabulary=spec, **settings)


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_long_input_loses_its_own_text_and_not_the_templates(name, tmp_path, tokenizer):
    vocabulary = load.load_vocabulary(write(tmp_path, tokenizer, TEMPLATES[name]))
    inputs = vocabulary.for_inputs()
    feature = seqio.Feature(vocabulary=inputs, add_eos=False)
    whole = inputs.encode("the cat sat on the mat " * 5)
    shortest = inputs.template_length + 1
    for length in (shortest, shortest + 3, len(whole) - 1, len(whole), len(whole) + 1, None):
        cut = features.cut(tf.constant(whole), feature, length).numpy().tolist()
        assert len(cut) == min(len(whole), length or len(whole))
        ending = inputs.ending_length
        assert cut[-ending:] == whole[-ending:]
        assert cut[:-ending] == whole[: len(cut) - ending]
    assert inputs.spelt(whole[-ending:]) == inputs._chat.ending


@pytest.mark.medium
def test_training_cached_or_not_and_collecting_read_the_same_rows(tmp_path, tokenizer):
    spec = write(tmp_path, tokenizer, ROLES)
    inputs = load.load_vocabulary(spec).for_inputs()
    length = inputs.template_length + 8  # some are cut
    config = config_of(spec, input_length=length)
    examples = list(pipeline.decode_examples(config, "demo_last_v1", "validation", limit=20))
    texts = [example.inputs_text for example in examples]
    assert all(text.startswith("last ") for text in texts)  # the task's own
    seen = set()
    for example in examples:
        ids = inputs.encode(example.inputs_text)
        ending = ids[len(ids) - inputs.ending_length :]
        kept = ids if len(ids) <= length else ids[: length - len(ending)] + ending
        assert (
            example.inputs[: len(kept)].tolist() == kept and not example.inputs[len(kept) :].any()
        )
        seen.add(len(ids) > length)
    assert seen == {False, True}
    cached = pipeline.HostBatches(config, "train", seqio.ShardInfo(0, 1))
    anew = pipeline.HostBatches(
        config_of(spec, input_length=length, cache_rows=0), "train", seqio.ShardInfo(0, 1)
    )
    for _ in range(3):
        batches = cached.read(), anew.read()
        assert batches[0].keys() == batches[1].keys()
        for name in batches[0]:
            np.testing.assert_array_equal(batches[0][name], batches[1][name])
    last = batches[0]["encoder_input_tokens"]
    eos = load.load_vocabulary(spec).eos_id
    assert eos not in last and (batches[0]["decoder_target_tokens"] == eos).any(axis=1).all()


def test_the_browser_shows_the_rendered_row(tmp_path, tokenizer):
    spec = write(tmp_path, tokenizer)
    (task,) = rows.open_tasks("demo_last_v1", "validation", spec)
    (example,) = rows.seen_examples(task, 1)
    start, end = "<|start|>user\n", "<|end|>\n<|start|>assistant\n"
    text = example.inputs.text.removeprefix(start).removesuffix(end)
    assert example.inputs.text == f"{start}{text}{end}" and text.startswith("last ")
    assert example.inputs.kept_text == example.inputs.text and not example.inputs.cut_text
    inputs = load.load_vocabulary(spec).for_inputs()
    assert list(example.inputs.ids) == inputs.encode(text)
    (task,) = rows.open_tasks("demo_last_v1", "validation", spec, len(example.inputs.ids) - 1, 8)
    (cut,) = rows.seen_examples(task, 1)
    assert cut.inputs.kept_text.endswith(end) and cut.inputs.kept_text.startswith(start)
    kept = cut.inputs.kept_text.removeprefix(start).removesuffix(end)
    assert kept + cut.inputs.cut_text == text and cut.inputs.cut_text


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    "template, message",
    [
        (None, "there is no chat template: no chat_template.jinja beside it"),
        ("{{ raise_exception('only for experts') }}", "fails on 'seventeen': only for experts"),
        ("{{ messages[7].content.upper() }}", "fails on 'seventeen': .*no element 7"),
        ("{% for m in messages %}", "chat_template.jinja, line 1: Unexpected end of template"),
        ("{% if %}", "line 1: "),
        ("{{ messages | shout }}", "line 1: No filter named 'shout'"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "is no template that Jinja can compile: "),
        ("<|start|>hello", "leaves the input out: 'seventeen' becomes '<|start|>hello'"),
        ("{{ messages[0].content.__class__.x }}", "fails on 'seventeen': access to attribute"),
        ("{{ messages.append(1) }}", "fails on 'seventeen': "),
        ("{{ strftime_now('%Y') }}", "date of today would change the ids"),
        ("{{ messages[0].content }}{% for i in range(10**9) %}{% endfor %}", "Range too big"),
    ],
)
def test_templates_that_will_not_do(template, message, tmp_path, tokenizer):
    with pytest.raises(ValueError, match=message) as caught:
        load.load_vocabulary(write(tmp_path, tokenizer, template))
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "options, message",
    [
        ("chat_template=defalt", "no chat template has this name; there are default; did you mean"),
        ("chat_template=default&chat.thinking=no", "value must be JSON"),
        ("chat_template=default&chat.add_generation=true", "reads no variable of this name; did"),
        ("chat_template=default&chat.thinking=true", "reads no variable of this name$"),
        ("chat_template=default&chat.messages=[]", "messages is set already"),
        ("chat.thinking=false", "is for a chat template; add chat_template=default"),
        ("chat.=false", "must be one of"),
        ("chat_templat=default", "did you mean 'chat_template'"),
    ],
)
def test_options_that_will_not_do(options, message, tmp_path, tokenizer):
    spec = write(tmp_path, tokenizer).partition("?")[0]
    with pytest.raises(ValueError, match=message):
        load.load_vocabulary(f"{spec}?{options}")


@pytest.mark.medium
def test_a_template_that_loses_one_input_is_refused_with_it(tmp_path, tokenizer):
    picky = "{{ messages[0].content if 'last' not in messages[0].content else 'nothing' }}!"
    spec = write(tmp_path, tokenizer, picky)
    assert load.load_vocabulary(spec).for_inputs().rendered("first") == "first!"
    message = "leaves the input out: 'last .*' becomes 'nothing!'$"
    with pytest.raises(ValueError, match=message):
        list(pipeline.decode_examples(config_of(spec), "demo_last_v1", "validation", limit=1))
    for changes in ({}, {"cache_rows": 0}):
        with pytest.raises(ValueError, match=message):
            pipeline.HostBatches(config_of(spec, **changes), "train", seqio.ShardInfo(0, 1)).read()
    (task,) = rows.open_tasks("demo_last_v1", "validation", spec)
    with pytest.raises(ValueError, match=message):
        list(rows.seen_examples(task, 1))


def test_lengths_and_tasks_that_have_no_place_for_a_template(tmp_path, tokenizer):
    spec = write(tmp_path, tokenizer)
    least = load.load_vocabulary(spec).for_inputs().template_length
    pipeline.open_mixture(config_of(spec, input_length=least + 1))
    with pytest.raises(ValueError, match=f"takes {least} tokens; take {least + 1} or more"):
        pipeline.open_mixture(config_of(spec, input_length=least))
    name = next(name for name in seqio.TaskRegistry.names() if "prefix_lm" in name)
    with pytest.raises(ValueError, match="makes its own token ids"):
        pipeline.open_mixture(pipeline.DataConfig(name, 64, 8, 1, vocabulary=spec))


def test_a_cache_of_one_template_is_not_read_for_another(tmp_path, tokenizer):
    folder = str(tmp_path / "ids")
    counts = []
    for template in (CHATML, BRACKETS):
        config = config_of(write(tmp_path, tokenizer, template))
        mixture = pipeline.open_mixture(config)
        task = mixture.tasks["demo_last_v1"]
        kept = token_cache.cached_tokens(task, "demo_last_v1", "validation", 10**6, folder)
        counts.append(int(kept.lengths("inputs")[0]))
        text = next(iter(pipeline.decode_examples(config, "demo_last_v1", "validation", 1)))
        inputs = task.output_features["inputs"].vocabulary
        assert isinstance(inputs, TokenizerJsonVocabulary)
        assert counts[-1] == len(inputs.encode(text.inputs_text))
    assert counts[0] != counts[1]


def test_without_jinja_it_says_what_to_install(tmp_path, tokenizer, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jinja2.sandbox", None)
    chat_template._environment.cache_clear()
    with pytest.raises(ValueError, match=r"needs the package jinja2: pip install 'cascade-jax\[ch"):
        load.load_vocabulary(write(tmp_path, tokenizer))
    chat_template._environment.cache_clear()
