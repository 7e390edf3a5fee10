from kt_cli.app import main

main()
