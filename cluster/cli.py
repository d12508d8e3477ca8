def main() -> None:
    print("rloop 0.1.0")
