#!/usr/bin/env bash
# The demo's four students again under other seeds (initial parameters, data order), with the teacher
# that `make demo` trained: does a difference between two losses hold beyond one run? At the end the
# tables of all seeds, without text, are in runs/demo_seeds/tables, and verdicts on the papers' claims
# in runs/demo_seeds/claims.
#
#   launch/demo_seeds.sh "1 2"
set -euo pipefail
cd "$(dirname "$0")/.."
if [ -d .venv/bin ]; then PATH="$PWD/.venv/bin:$PATH"; fi # where make installs cascade-jax
seeds=${1:-"1 2"}
out=runs/demo_seeds
run=(--gin_file=gin/runs/student.gin --gin_file=gin/pairs/demo.gin --gin_file=gin/data/demo.gin
  "--gin.OUTPUT_DIR='$out'" "--gin.TEACHER_RUN='runs/demo/teacher'"
  --gin.BATCH_SIZE=64 --gin.STUDENT_STEPS=1000 --gin.STUDENT_LEARNING_RATE=0.02
  --gin.CHECKPOINT_EVERY=250 --gin.DECODE_BATCH_SIZE=256 "--gin.COLLECT_SPLIT='test'")
names=()
for seed in $seeds; do
  for loss in xent dist cat_xent cat_dist; do
    names+=("'${loss}_$seed'")
    cascade-jax train "${run[@]}" "--gin_file=gin/losses/$loss.gin" \
      "--gin.NAME='${loss}_$seed'" "--gin.SEED=$seed"
  done
done
list="[$(IFS=,; echo "${names[*]}")]"
all=("${run[@]}" --gin_file=gin/losses/xent.gin "--gin.NAME='all'" "--gin.NAMES=$list")
cascade-jax collect "${all[@]}"
cascade-jax evaluate "${all[@]}"

for seed in $seeds; do
  for loss in xent dist cat_xent cat_dist; do
    cascade-jax records without-text --records "$out/records/test/${loss}_$seed.parquet" \
      --pair demo --size small --loss "$loss" --seed "$seed" --output "$out/tables/$loss.$seed.parquet"
  done
done
cascade-jax compare "$out/tables" --claims all --output "$out/claims"
