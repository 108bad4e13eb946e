"""Networks beside a frozen backbone that read it; no gradient passes through it."""
