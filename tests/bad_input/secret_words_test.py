"""Secrets are found in all their spellings, and honest words are not taken for them."""

import runpy
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "launch" / "secret_words.py"
secret_in = runpy.run_path(str(SCRIPT))["secret_in"]

SECRETS = [
    ["--token", "x"], ["--token=x"], ["-token", "x"], ["--gin.TOKEN='x'"], ["TOKEN1=x"],
    ["--api-key", "x"], ["--api_key=x"], ["API_KEY=x"], ["--apikey=1x"], ["X-Api-Key: x"],
    ['{"api_key": "x"}'], ["--gin.WANDB_API_KEY='x'"], ["OPENAI_KEY=x"], ["sshKey=x"],
    ["PRIVATE_KEY=x"], ["HF_TOKEN=x"], ["--env=HF_TOKEN=x"], ["GITHUB_TOKEN: x"],
    ["--access-token", "x"], ["AWS_SECRET_ACCESS_KEY=a/b+c"], ["SECRET_KEY_BASE=x"],
    ["--secret", "x"], ["clientSecret=x"], ["--password", "12345"], ["dbPassword=x"],
    ["PGPASSWORD=x"], ["MYSQL_PWD=x"], ["--passwd=x"], ["--credentials=x"],
    ["https://user:pw@host/x"], ["postgres://u:p@host/db"], ["https://host/?token=x&y=1"],
    ["-H", "Authorization: Bearer abcdef123"], ["--header=Authorization: Basic dXNlcjpwdw=="],
    ["--setup", "export HF_TOKEN=x && make"], ["--setup", "hf auth login --token x"],
    ["--setup", "curl -u me:pw host"], ["--image", "hf_abcdefghijklmnopqrst"],
    ["AKIAABCDEFGHIJKLMNOP"], ["sk-proj-0123456789abcdef"],
    ["--user=me:pw"], ["--api-keys", "x"], ["--passwords", "x"], ["tokens=x"], ["--dbpass=x"],
    ["--auth=x"], ["--cookie", "x"], ["--cookies=x"], ["https://x@host/"], ["--privatekey=x"],
    ["--token", "123456"], ["--token=123456"], ["HF_TOKEN=123456"], ["API_TOKEN", "12345678"],
    ["HF_TOKEN", "abc"], ["--setup", "setenv HF_TOKEN abc; make"], ["WANDB_API_KEY", "0x1"],
    ["https://b.s3.amazonaws.com/k?X-Amz-Date=1&X-Amz-Signature=0123"],
    ["https://a.blob.core.windows.net/c?sv=2024&sig=xy%3D"], ["gs://b/k?x-goog-signature=ab"],
    ["https://host/a?access_token=1234"], ["wget 'https://host/a?b=c&token=1234'"],
    ["git+https://x@host/a"], ["--ssh-key", "x"], ["smtpPass=x"], ["HF_TOKENS=x"],
]  # fmt: skip
HONEST = [
    ["train"], ["--gin.NUM_TOKENS=5"], ["max_tokens=5"], ["--gin.x.tokens_per_sequence=20"],
    ["tokenizer=x"], ["--tokenizer", "x"], ["--gin.LEVEL='token'"], ["--gin.PAD_TOKEN='<pad>'"],
    ["--gin.data.eos_token='</s>'"], ["--gin.cost_per_token=3"], ["bits_per_token=8"],
    ["--gin.losses.token_mask='x'"], ["--gin.USE_TOKEN=True"], ["--use-token", "--dry_run"],
    ["keyboard=x"], ["sort_key=x"], ["--key=x"], ["--gin.KEYS=['a']"], ["author=x"],
    ["--compass=x"], ["bypass=on"], ["secretary=x"], ["--project=token-research"], ["HF_TOKEN="],
    ["HF_TOKEN=$HF_TOKEN"], ["--setup", "export HF_TOKEN=$(cat /run/token) && make"],
    ["token_file=/x"], ["GOOGLE_APPLICATION_CREDENTIALS=/etc/g.json"], ["PWD=/home/x"],
    ["--user", "1000:1000"], ["https://host:8080/x"], ["gs://bucket/a@b"],
    ["--image=REGISTRY/cascade-jax:v1@sha256:0123456789abcdef"], ["--gin.TASK='basic english'"],
    ["--setup", "git clone https://github.com/a/b && make -C b install"],
    ["--ssh-key", "~/.ssh/id_rsa"], ["--ssh-key=~/.ssh/id.pub"], ["--private-key", "/etc/k.pem"],
    ["--privatekey=/etc/k.pem"], ["--api-keys", "keys.json"], ["--max_token=128k"],
    ["--max_new_tokens=128k"], ["--think_token", "think"], ["--auth=basic"], ["authors=x"],
    ["--compass", "x"], ["ssh://git@github.com/a/b"], ["git+https://github.com/a/b@v1"],
    ["docker", "run", "-e", "HF_TOKEN", "image"], ["--setup", "export HF_TOKEN && make"],
    ["--setup", "test -n HF_TOKEN && make"], ["tokens=5"], ["--tokens", "128"], ["NUM_TOKENS", "5"],
    ["https://host/a?max_tokens=5"], ["https://host/a?design=x"], ["https://host/a?token=$TOKEN"],
    ["--gin.losses.mask_token=3"], ["TOKENIZER", "x"], ["HF_HOME", "/data"],
    ["--cookie", "cookies.txt"], ["--user=1000:1000"], ["passes=x"], ["tokenizers=x"],
]  # fmt: skip


@pytest.mark.parametrize("words", SECRETS, ids=" ".join)
def test_a_secret_is_found_and_not_shown(words):
    shown = secret_in(words)
    assert shown
    assert shown not in ("x", "12345") and "pw" not in shown and "abcdef" not in shown


@pytest.mark.parametrize("words", HONEST, ids=" ".join)
def test_honest_words_are_none(words):
    assert secret_in(words) is None
