"""Finds secrets among the words of a command line, which every user of a machine can see."""

import re
import shlex
from collections.abc import Iterator, Sequence

# The last word, without a plural s, of a name such as HF_TOKEN, api-token or dbPasswords.
_ALWAYS = {
    "password", "passwd", "passphrase", "passcode", "secret", "apikey", "authorization",
    "bearer", "accesstoken", "authtoken", "apitoken", "hftoken",
}  # fmt: skip
_UNLESS_A_NUMBER = {"token", "pass", "pw"}
_UNLESS_A_PATH = {"credential", "pwd", "privatekey", "auth", "cookie"}
_METHODS = {"basic", "digest", "oauth", "oauth2", "iam", "adc", "kerberos"}  # of --auth
_NO_PASSWORD = {
    "compass", "encompass", "bypass", "surpass", "trespass", "overpass", "underpass", "lowpass",
    "highpass", "bandpass", "allpass", "multipass",
}  # fmt: skip
# Before "key": an API key is secret, a sort key is not.
_KEYS = {
    "api", "private", "access", "secret", "ssh", "signing", "encryption", "account", "service",
    "auth", "client", "license", "master", "deploy", "session", "subscription", "wandb", "openai",
    "anthropic", "hf", "aws", "azure", "gcp", "google", "storage",
}  # fmt: skip
# Before "token": one of a vocabulary.
_VOCABULARY = {
    "pad", "padding", "eos", "bos", "unk", "sep", "cls", "mask", "start", "end", "stop", "begin",
    "special", "sentinel", "next", "first", "last", "per", "target", "input", "output", "label",
    "answer", "decoder", "by", "think", "thinking", "max", "min", "num", "extra", "added",
}  # fmt: skip
# Before a name that has no value of its own here: docker passes the variable on, a shell names it.
_NAMES_ONLY = {"-e", "--env", "export", "unset", "readonly", "local", "declare", "printenv"}
_VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)*")  # HF_TOKEN, TOKEN
_OPERATOR = re.compile(r"[&|;<>(){}]+.*")  # of a shell
_NEUTRAL = {"value", "string", "text", "base", "plain"}  # after the word: TOKEN_VALUE
_HARMLESS = re.compile(r"(?i)(true|false|none|null|<.*>|\$.*|)")
_NUMBER = re.compile(r"[-+]?[\d_.]+(e[-+]?\d+)?[kKmMgG]?")
_PATH = re.compile(r"(~|\.{0,2})/.*|\w+://.*|.*\.(json|ya?ml|txt|pem|pub|key|crt)|id_[a-z0-9]+")
_PAIR = re.compile(r"""([A-Za-z_][\w.\-/]*)["']?\s*[=:]\s*["']*(?=([^\s"',;&)}\]]*))""")
_SHAPES = {
    "a URL with a password": (r"\w://[^/\s:@]*:[^/\s@]+@|https?://(?!git@)[^/\s@]+@"),
    "a signed URL": (
        r"(?i)\w://\S*[?&](x-(amz|goog)-(signature|security-token)|sig|signature|"
        r"((access|auth|api|id)[_-]?)?token)=(?![$<&])\S"
    ),
    "an Authorization header": r"(?i)\bbearer\s+(?=\S*\d)[\w.~+/-]{6,}",
    "a private key": r"-----BEGIN [A-Z ]*PRIVATE KEY",
    "an access token": (
        r"\b(hf_[A-Za-z0-9]{16,}|sk-[\w-]{16,}|gh[pousr]_\w{16,}|github_pat_\w{16,}|glpat-[\w-]{16,}"
        r"|xox[abprs]-[\w-]{10,}|AKIA[0-9A-Z]{12,}|AIza[\w-]{30,}|ya29\.[\w-]{10,}"
        r"|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]+)"
    ),
}


def secret_in(words: Sequence[str]) -> str | None:
    """What looks like a secret: the name of an option or variable, or a kind; None for nothing.

    The value itself is never part of it.

    Example: ["--token", "abc"] gives "--token", ["--gin.MAX_TOKENS=5"] None.
    """
    for word in words:
        for kind, shape in _SHAPES.items():
            if re.search(shape, word):
                return kind
    for name, value in _pairs(words):
        if _is_secret(name, value):
            return name
    return None


def _pairs(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Names and values, also inside of a shell command.

    They are NAME=VALUE, NAME: VALUE, --NAME VALUE and, of a variable, NAME VALUE.
    """
    for before, word, following in zip(["", *words], words, [*words[1:], ""], strict=False):
        yield from _PAIR.findall(word)
        is_value = following and not following.startswith("--")
        if re.fullmatch(r"--?[A-Za-z][\w.-]*", word) and is_value:
            yield word, following
        is_variable = _VARIABLE.fullmatch(word) and before not in _NAMES_ONLY
        if is_variable and is_value and not _OPERATOR.fullmatch(following):
            yield word, following
        if re.search(r"\s", word):
            try:
                inner = shlex.split(word)
            except ValueError:
                inner = word.split()
            if inner != [word]:
                yield from _pairs(inner)


def _is_secret(name: str, value: str) -> bool:
    value = value.strip("'\"")
    if _HARMLESS.fullmatch(value):
        return False
    if name in ("-u", "--user", "user"):  # of curl; not the numbers that docker takes
        return re.fullmatch(r"[^:/\s]+:[^/\s]+", value) is not None and not value[0].isdigit()
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    parts = [part.lower() for part in parts]
    while parts and parts[-1] in _NEUTRAL:
        parts.pop()
    before, last = ["", "", *parts][-2:]
    is_plural = last.endswith("s") and not last.endswith("ss")
    last = last[:-1] if is_plural else last
    is_always = last in _ALWAYS or last.endswith(("password", "passwd", "passphrase"))
    if is_always or ("secret" in parts and last == "key"):
        return True
    if last in _UNLESS_A_NUMBER or (last.endswith("pass") and last not in _NO_PASSWORD):
        if last == "token" and before in _VOCABULARY:
            return False
        # A number of tokens has another name: num_tokens, or a word of the vocabulary before it.
        may_be_digits = last == "token" and not is_plural and before in {"", *_KEYS}
        return may_be_digits or not _NUMBER.fullmatch(value)
    if last in _UNLESS_A_PATH:
        is_method = last == "auth" and value.lower() in _METHODS
        return not is_method and not _PATH.fullmatch(value)
    is_honest = _NUMBER.fullmatch(value) or _PATH.fullmatch(value)
    return last == "key" and before in _KEYS and not is_honest
