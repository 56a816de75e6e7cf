"""The laws on a GPU; where there is none, a part of them runs on the CPU, so that they do run."""
