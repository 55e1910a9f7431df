"""Generate from token ids with `LlamaForCausalLM.generate`: two prompts in one batch.

python scripts/examples/predict_generate.py --checkpoint_path CKPT
"""

import argparse

from mindformers_codellama import AutoTokenizer, LlamaConfig, LlamaForCausalLM, MindFormerConfig, init_context, str2bool

PROMPTS = ["def bubble_sort(arr):\n", "def quick_sort(arr):\n"]


def main(args: argparse.Namespace) -> None:
    """Read the YAML file, build the model, print prompt and answer of every row."""
    config = MindFormerConfig(args.yaml_file)
    init_context(use_parallel=config.use_parallel, context_config=config.context, parallel_config=config.parallel)

    model_config = LlamaConfig(**config.model.model_config)
    model_config.use_past = args.use_past
    model_config.seq_length = args.seq_length
    model_config.checkpoint_name_or_path = args.checkpoint_path
    model = LlamaForCausalLM(model_config)

    tokenizer = AutoTokenizer.from_pretrained(args.model_type)
    rows = model.generate(tokenizer(PROMPTS)["input_ids"], max_new_tokens=args.max_new_tokens, do_sample=False)
    for row in rows:
        print(tokenizer.decode(row, skip_special_tokens=True))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_type", default="codellama_tiny", help="registry name, or a directory with tokenizer.model")
    parser.add_argument("--yaml_file", default="configs/codellama/predict_codellama_tiny.yaml")
    parser.add_argument("--checkpoint_path", default="", help="weights; none gives a model that knows nothing")
    parser.add_argument("--use_past", default=True, type=str2bool, help="keep keys and values of past positions")
    parser.add_argument("--seq_length", default=256, type=int, help="positions for prompt and answer together")
    parser.add_argument("--max_new_tokens", default=64, type=int)
    main(parser.parse_args())
