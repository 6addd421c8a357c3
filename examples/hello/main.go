// Hello is a small web service. Change the greeting, run `runtime update`, and see it change at the same URL.
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
)

const greeting = "Hello from Runtime Builds"

func main() {
	http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		log.Printf("%s %s", r.Method, r.URL.Path)
		fmt.Fprintln(w, greeting)
	})

	address := net.JoinHostPort(os.Getenv("HOST"), os.Getenv("PORT"))
	log.Printf("listening on %s", address)
	log.Fatal(http.ListenAndServe(address, nil))
}
