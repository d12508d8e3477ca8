import torch

from trainer.losses.sequences import sequence_mean, sequence_sum

X = torch.tensor([1.0, 2.0, 4.0, 8.0])
IDS = torch.tensor([0, 0, 2, 2])


def test_sums_take_every_token_and_means_those_on_the_mask() -> None:
    mask = torch.tensor([True, True, True, False])
    assert sequence_sum(X, IDS, 3).tolist() == [3.0, 0.0, 12.0]
    assert sequence_mean(X, mask, IDS, 3).tolist() == [1.5, 0.0, 4.0]
