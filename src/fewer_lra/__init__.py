"""Long Range Arena: its tasks, its eleven attentions, and the runs that compare them."""
