"""MindFormers' predict_custom.py through this package: two prompts in one batch, on one rank or on several.

bash scripts/run_predict.sh RANK_TABLE CHECKPOINT YAML MODEL_TYPE RANK_SIZE START_RANK
"""

import argparse
import sys

from mindformers_codellama import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    MindFormerConfig,
    TransformerOpParallelConfig,
    init_context,
    str2bool,
)
from mindformers_codellama.cli.main import reported

PROMPTS = ["def bubble_sort(arr):\n", "def quick_sort(arr):\n"]


def main(args: argparse.Namespace) -> int:
    """Read the YAML file, join the other ranks, build the model, print prompt and answer of every row; the exit code."""
    config = MindFormerConfig(args.yaml_file)
    init_context(use_parallel=config.use_parallel, context_config=config.context, parallel_config=config.parallel)

    model_config = LlamaConfig(**config.model.model_config)
    model_config.parallel_config = TransformerOpParallelConfig(**config.parallel_config)
    model_config.batch_size = len(PROMPTS)
    model_config.use_past = args.use_past
    model_config.seq_length = args.seq_length
    model_config.checkpoint_name_or_path = args.checkpoint_path

    tokenizer = AutoTokenizer.from_pretrained(args.model_type)
    model = LlamaForCausalLM(model_config)
    model.set_train(False)
    ids = tokenizer(PROMPTS, max_length=model_config.seq_length, padding="max_length")["input_ids"]
    rows = model.generate(
        ids,
        max_length=model_config.max_decode_length,
        do_sample=model_config.do_sample,
        top_k=model_config.top_k,
        top_p=model_config.top_p,
    )
    for row in rows:
        print(tokenizer.decode(row))
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_type", default="codellama_34b", help="registry name, or a folder with tokenizer.model")
    parser.add_argument("--device_id", default=0, type=int, help="accepted; DEVICE_ID of the launcher says which device")
    parser.add_argument("--checkpoint_path", default="", help="weights; none gives a model that knows nothing")
    parser.add_argument("--use_past", default=True, type=str2bool, help="keep keys and values of past positions")
    parser.add_argument("--yaml_file", default="", help="configuration")
    parser.add_argument("--seq_length", default=512, type=int, help="positions for prompt and answer together")
    arguments = parser.parse_args()
    sys.exit(reported(lambda: main(arguments)))  # what is wrong is told in one line
