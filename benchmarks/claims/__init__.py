"""The talk "Efficient PLMs from the perspective of Token", judged claim by claim by rows."""
