from mindformers_codellama.checkpoint.report import compare, difference_errors, group_layers
from mindformers_codellama.checkpoint.weight_map import Sizes, expected_shapes

SMALL = Sizes(vocab=48, hidden=32, layers=3, intermediate=40, query_rows=32, kv_rows=16)


def told(found, needed):
    return [str(error) for error in difference_errors("x.ckpt", compare(found, needed), found, needed)]


def test_no_difference_gives_no_error():
    shapes = expected_shapes(SMALL)
    assert not compare(shapes, shapes)
    assert told(shapes, shapes) == []


def test_missing_unexpected_and_misshaped_are_told_together():
    needed = expected_shapes(SMALL)
    found = dict(needed)
    del found["model.layers.1.attention.wq.weight"]
    found["model.norm_out.weight"] = (31,)
    found["extra"] = (1,)
    assert told(found, needed) == [
        "model.norm_out.weight: has shape [31], the model needs [32].",
        "model.layers.1.attention.wq.weight: is missing in x.ckpt.",
        "extra: is in x.ckpt, but the model has no such parameter.",
    ]


def test_another_model_size_is_said_first_with_the_sizes_that_differ():
    other = Sizes(vocab=48, hidden=64, layers=2, intermediate=40, query_rows=64, kv_rows=16)
    errors = told(expected_shapes(other), expected_shapes(SMALL))
    assert errors[0].startswith(
        "x.ckpt: is a checkpoint of another model size: hidden_size 64 there, 32 in the model; "
        "num_layers 2 there, 3 in the model; query width 64 there, 32 in the model."
    )
    assert "model.layers.{0-1}.attention.wq.weight: has shape [64, 64], the model needs [32, 32]." in errors
    assert "model.layers.2.attention.wq.weight: is missing in x.ckpt." in errors


def test_a_file_of_something_else_is_said_first():
    assert (
        told({"bert.embeddings": (3, 3)}, expected_shapes(SMALL))[0]
        == "x.ckpt: is not a checkpoint of this model; it holds bert.embeddings."
    )


def test_concatenated_weights_of_later_mindformers_say_what_to_do():
    needed = expected_shapes(SMALL)
    found = {name.replace("wq", "w_qkv"): shape for name, shape in needed.items()}
    line = next(line for line in told(found, needed) if line.startswith("model.layers.{0-2}.attention.w_qkv.weight"))
    assert "qkv_concat: False" in line


def test_layers_are_grouped_with_their_gaps():
    names = [f"model.layers.{i}.w" for i in (0, 1, 2, 5, 7, 8)] + ["head", "model.layers.4.v"]
    assert group_layers(names) == ["model.layers.{0-2,5,7-8}.w", "head", "model.layers.4.v"]
